"""The ModEx loop: closed forms of the discrepancy and of the value of measuring, decisions, calibration, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dse.errors import SpecError
from dse.explore.modex import acquire, cli, decisions, gp, modex
from dse.explore.modex.calibrate import half_width, score
from dse.explore.modex.compare import contest, prior_is_right
from dse.explore.modex.loop import Settings, State, look, run
from dse.explore.modex.problem import Measured, Problem, Table
from dse.explore.modex.ready import READY, find
from dse.explore.modex.tables import Contest, Steps
from dse.plain import finite

SIZE = 12


def curve(seed: int = 0, size: int = SIZE, error: float = 0.3, **how: object) -> Problem:
    """Candidates along two features whose prior is off by a smooth function drawn at random."""
    random = np.random.default_rng(seed)
    x, kind = random.random(size), random.choice(["a", "b"], size)
    names = [f"row {i}" for i in range(size)]
    shape = gp.Kernel(*gp.encode({"x": x, "kind": kind}), error, 1.0, 0.0)
    matrix = shape.between(np.arange(size), np.arange(size), shape.start())
    off = error * np.linalg.cholesky(matrix + 1e-9 * np.eye(size)) @ random.standard_normal(size)
    predicted = np.exp(0.3 * random.standard_normal(size))
    given_ = {"noise": 0.0, "error": error, "decision": decisions.lowest(names), **how}
    return Problem("curve", names, {"x": x.tolist(), "kind": kind.tolist()}, predicted.tolist(),
                   source=Table((predicted * np.exp(off)).tolist()), **given_)  # type: ignore[arg-type] # fmt: skip


def known(problem: Problem, rows: list[int]) -> State:
    """The state after these rows were measured once."""
    state = State()
    for row in rows:
        state.rows.append(row)
        state.values.append(problem.source.measure(row, 0))  # type: ignore[union-attr, arg-type]
    return state


def test_gradient_of_the_marginal_likelihood_is_its_slope() -> None:
    """Against central differences, with repetitions and a learnt noise."""
    problem = replace(curve(1), noise=None)
    rows = np.array([0, 3, 3, 5, 7, 9])
    y = np.random.default_rng(2).standard_normal(len(rows)) * 0.3
    kernel, point = problem.kernel, problem.kernel.start() + 0.2
    squares, same = kernel.squares(rows, rows), rows[:, None] == rows[None, :]
    slope = gp._marginal(kernel, squares, same, y, point)[1]
    for i in range(len(point)):
        step = np.zeros(len(point))
        step[i] = 1e-5
        ends = [gp._marginal(kernel, squares, same, y, point + s * step)[0] for s in (1, -1)]
        assert slope[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-7)


def test_discrepancy_of_one_measurement_has_its_closed_form() -> None:
    """With one exact measurement and no feature, mean and variance are those of two correlated t variables."""
    error, level, y = 0.5, 2.0, 0.7
    kernel = gp.Kernel(np.zeros((2, 0)), np.zeros(0, int), error, level, 0.0)
    posterior = gp.condition(kernel, np.array([0]), np.array([y]), kernel.start())
    rough = np.exp(2 * gp.ROUGH)
    own, shared = 16 + 1 + rough, 16 + 1
    left = gp.SHAPE * error**2 + 0.5 * y**2 / own
    assert posterior.freedom == 2 * gp.SHAPE + 0.5  # half of one measurement goes into the common factor
    assert posterior.mean(np.array([1]))[0] == pytest.approx(y * shared / own, rel=1e-6)
    wanted = left / (gp.SHAPE + 0.25) * (own - shared**2 / own)
    assert posterior.variance(np.array([1]))[0] == pytest.approx(wanted, rel=1e-5)


def test_exact_measurements_are_reproduced_and_others_stay_open() -> None:
    """Where repetitions do not differ, what was measured is known; what was not keeps an interval."""
    problem = curve(3)
    view = look(problem, known(problem, [0, 4, 8]), Settings())
    low, middle, high = view.interval(np.array([0, 4, 8, 1]))
    values = [problem.source.measure(i, 0) for i in (0, 4, 8)]  # type: ignore[union-attr]
    np.testing.assert_allclose(middle[:3], values, rtol=1e-3)
    assert (high[:3] / low[:3] < 1.01).all()
    assert high[3] / low[3] > 1.02


def test_score_has_the_tail_of_the_prediction() -> None:
    """A residual at the 90 % point of Student's t scores as the 90 % point of a normal."""
    from scipy.stats import norm
    from scipy.stats import t as student

    problem = curve(4)
    posterior = look(problem, known(problem, [0, 2, 5, 7]), Settings()).belief.posterior
    where = np.array([9])
    deviation = np.sqrt(posterior.variance(where) + posterior.noise)[0]
    y = posterior.mean(where)[0] - student.ppf(0.95, posterior.freedom) * deviation
    assert score(posterior, 9, y) == pytest.approx(norm.ppf(0.95), rel=1e-6)


@pytest.mark.parametrize("kind", ["lowest", "cheapest", "below", "ranking"])
def test_expected_losses_are_means_of_losses(kind: str) -> None:
    """The closed forms against a million draws of a normal."""
    names = ["p", "q", "r"]
    decision = {
        "lowest": decisions.lowest(names, weight=[1.0, 2.0, 3.0]),
        "cheapest": decisions.cheapest(names, [1.0, 2.0, 5.0], 1.2, at_least=True),
        "below": decisions.cheapest(names, [1.0, 2.0, 5.0], 1.2),
        "ranking": decisions.ranking(names),
    }[kind]
    random = np.random.default_rng(0)
    size = len(decision.rows)
    mean, deviation = random.normal(0, 0.3, size), random.uniform(0.1, 0.5, size)
    draws = mean + deviation * random.standard_normal((200_000, size))
    np.testing.assert_allclose(decision.expected(mean, deviation**2), decision.loss(draws).mean(0), atol=6e-3)


def test_decisions_are_what_their_words_say() -> None:
    """On known values: least, greatest, in groups, cheapest that meets, none that does, in what order."""
    values = np.log([3.0, 1.0, 2.0, 5.0])
    names = list("abcd")

    def taken(decision: decisions.Decision) -> str:
        return decision.text(decision.take(decision.loss(decision.quantity(values))))

    assert taken(decisions.lowest(names)) == "b"
    assert taken(decisions.lowest(names, greatest=True)) == "d"
    assert taken(decisions.lowest(names, ["x", "x", "y", "y"])) == "b, c"
    assert taken(decisions.lowest(names, weight=[1, 4, 1, 1])) == "c"
    assert taken(decisions.cheapest(names, [4, 3, 2, 9], 2.5)) == "c"
    assert taken(decisions.cheapest(names, [4, 3, 2, 9], 2.5, at_least=True)) == "a"
    assert taken(decisions.cheapest(names, [4, 3, 2, 9], 7.0, at_least=True)) == "none"
    assert taken(decisions.cheapest(names, [4, 3, 2, 9], 0.5, against=3)) == "c"
    assert taken(decisions.ranking(names)) == "b < a, c < a, a < d, b < c, b < d, c < d"


def test_value_of_measuring_one_of_two_has_its_closed_form() -> None:
    """Two rows, the one known: the reduction of regret is the expected improvement of the normal outcome."""
    problem = Problem("two", ["a", "b"], {}, [1.0, 1.05], decisions.lowest(["a", "b"]), Table([1.0, 1.0]), noise=0.0)
    view = look(problem, known(problem, [0]), Settings())
    belief = view.belief
    gain, _ = acquire.reductions(belief, np.array([1]))
    gap = abs(belief.mean[1] - belief.mean[0])
    spread = float(np.sqrt(belief.variance[1]))
    z = gap / spread
    density, tail = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi), 0.5 * _erfc(z / np.sqrt(2))
    # Nine nodes of quadrature over a kink.
    assert gain[0] == pytest.approx(spread * density - gap * tail, rel=0.15)


def _erfc(value: float) -> float:
    from math import erfc

    return erfc(value)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, SIZE - 1), kind=st.sampled_from(["lowest", "cheapest", "rank"])
)
def test_measuring_is_never_worth_less_than_nothing(seed: int, count: int, kind: str) -> None:
    """Information cannot raise the expected regret, and cannot lower it by more than there is."""
    problem = curve(seed)
    names = list(problem.names)
    decision = {
        "lowest": decisions.lowest(names, [i % 3 for i in range(SIZE)]),
        "cheapest": decisions.cheapest(names, np.arange(1.0, SIZE + 1), 1.0, at_least=True),
        "rank": decisions.ranking(names, [0, 1, 2, 3]),
    }[kind]
    problem = replace(problem, decision=decision)
    view = look(problem, known(problem, list(range(count))), Settings())
    gain, told = acquire.reductions(view.belief, np.arange(SIZE))
    assert (gain >= 0).all()
    assert (told >= 0).all()
    assert gain.max() <= 1.5 * view.regret + 0.05  # the draws of the regret follow t and are few
    assert 0 <= view.probability <= 1
    assert np.isfinite([view.regret, *gain, *told]).all()


@pytest.mark.parametrize("strategy", acquire.NAMES)
def test_all_measured_means_decided_right(strategy: str) -> None:
    """Once every row is known the decision is that of the table, and cannot change."""
    problem = curve(5)
    loop = run(problem, Settings(strategy), stop=False)
    assert loop.ended == "exhausted"
    assert sorted(step.row for step in loop.steps[1:]) == list(range(SIZE))
    assert loop.decision == problem.names[int(np.argmin([v[0] for v in problem.source.values]))]  # type: ignore[union-attr]
    assert loop.steps[-1].probability == 0


def test_units_do_not_matter() -> None:
    """Values and predictions a thousand times larger, and costs in another currency, change nothing."""
    problem = curve(6, cost=np.linspace(1, 3, SIZE).tolist())
    scaled = replace(
        problem, predicted=(1000 * np.array(problem.predicted)).tolist(), cost=(7 * problem.costs).tolist(),
        source=Table([1000 * v for v in problem.source.values]),  # type: ignore[union-attr]
    )  # fmt: skip
    first, second = run(problem, Settings()), run(scaled, Settings())
    assert [s.name for s in first.steps] == [s.name for s in second.steps]
    np.testing.assert_allclose([s.probability for s in first.steps], [s.probability for s in second.steps], atol=0.02)


def test_dear_rows_wait() -> None:
    """Of two rows that would tell as much, the cheap one is measured."""
    names = ["a", "b"]
    problem = Problem("two", names, {}, [1.0, 1.0], decisions.lowest(names), Table([1.0, 1.1]), [10.0, 1.0], noise=0.0)
    assert run(problem, Settings(reserve=0), most=1).steps[1].name == "b"
    assert run(replace(problem, cost=[1.0, 10.0]), Settings(reserve=0), most=1).steps[1].name == "a"


def test_reserve_widens_intervals_that_do_not_hold() -> None:
    """Without scores the model's interval; far scores widen it, near ones narrow it; many are split conformal."""
    from scipy.stats import norm
    from scipy.stats import t as student

    problem = curve(7, size=24)
    posterior = look(problem, known(problem, list(range(20))), Settings()).belief.posterior
    assert half_width(posterior, [], 0.9) == (pytest.approx(student.ppf(0.95, posterior.freedom)), 1.0)
    wide, narrow = half_width(posterior, [3.0] * 5, 0.9)[1], half_width(posterior, [0.1] * 20, 0.9)[1]
    assert narrow < 1 < wide
    rising = np.linspace(0.1, 3, 60).tolist()
    assert half_width(posterior, rising, 0.9)[0] > half_width(posterior, rising[::-1], 0.9)[0]
    many = np.abs(np.random.default_rng(0).standard_normal(400)) * 2
    width = half_width(posterior, many.tolist(), 0.9)[0]
    assert width == pytest.approx(student.isf(norm.sf(2 * norm.ppf(0.95)), posterior.freedom), rel=0.25)


@pytest.mark.parametrize("strategy", ["regret", "variance"])
def test_intervals_hold_under_active_sampling(strategy: str) -> None:
    """Nominal 90 %, over errors drawn from the kernel and rows that were chosen for what they tell."""
    held = total = 0.0
    for seed in range(12):
        problem = curve(seed, size=40, error=0.4)
        row = contest(problem, (strategy,), 1, settings=Settings(seed=seed), most=14).iloc[0]
        held, total = held + row.covered * row.intervals, total + row.intervals
    assert 0.85 <= held / total <= 0.96


def test_regret_needs_half_the_measurements_of_chance() -> None:
    """Decisions that the prior gets wrong: right for good in nine of ten runs, against chance with the same model."""
    shares = (0.2, 0.4, 0.45, 0.55, 0.65, 0.9)
    groups = {"MI250X": tuple(f"dycore:device=MI250X,share={share}" for share in shares)}
    found = Contest(groups=groups, seeds=10, prior_wrong=True).table(print).rows.set_index("strategy")
    assert found["to_random"]["regret"] <= 0.5
    assert found["to_unaided"]["regret"] <= 0.5
    assert found["right"]["regret"] >= 0.9
    assert prior_is_right(find("dycore:device=MI250X,share=0.8"))


def test_a_saved_loop_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    """Cut after three steps and resumed, the log is the same, byte for byte."""
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    options = {"seed": 3, "stop": 0.0}
    modex("dycore:device=A100", measurements=6, file=whole, **options)  # type: ignore[arg-type]
    modex("dycore:device=A100", measurements=3, file=cut, **options)  # type: ignore[arg-type]
    modex("dycore:device=A100", measurements=6, file=cut, **options)  # type: ignore[arg-type]
    assert cut.read_bytes() == whole.read_bytes()
    again = modex("dycore:device=A100", measurements=6, **options)  # type: ignore[arg-type]
    assert json.loads(whole.read_text())["steps"] == finite(again.to_dict())["steps"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: kept.update(digest="0"),
        lambda kept: kept["settings"].update(seed=9),
        lambda kept: kept["steps"][1].update(row=99),
        lambda kept: kept["steps"][1].update(value=-1.0),
        lambda kept: kept.update(point=[1.0]),
        lambda kept: kept.pop("steps"),
        lambda kept: kept["steps"][0].update(watched=3),
    ],
)
def test_a_log_that_does_not_fit_is_refused(tmp_path: Path, spoil: object) -> None:
    """Another problem's, another seed's, or one that was edited."""
    file = tmp_path / "log.json"
    modex("dycore:device=A100", measurements=2, stop=0.0, file=file)
    kept = json.loads(file.read_text())
    spoil(kept)  # type: ignore[operator]
    file.write_text(json.dumps(kept))
    with pytest.raises(SpecError, match="log"):
        modex("dycore:device=A100", measurements=4, file=file)


def test_values_can_be_told(tmp_path: Path) -> None:
    """Without a source the loop says what to measure, takes the value, and goes on."""
    whole = curve(8)
    problem = replace(whole, source=None)
    file, values = tmp_path / "log.json", {n: whole.source.measure(i, 0) for i, n in enumerate(whole.names)}  # type: ignore[union-attr]
    loop = modex(problem, file=file)
    assert loop.ended == "waiting"
    assert "tell its value" in str(loop)
    while loop.ended == "waiting":
        name = str(problem.names[loop.next])  # type: ignore[index]
        loop = modex(problem, file=file, tell={name: values[name]})
    assert loop.ended in ("stable", "exhausted")
    assert {step.why for step in loop.steps[1:]} == {"told"}
    with pytest.raises(SpecError, match="no candidate"):
        modex(problem, tell={"row 99": 1.0})


def test_a_function_is_measured_until_the_budget_is_spent() -> None:
    """A callable source, its cost added up, never past the budget."""
    names = [f"n={n}" for n in range(1, 9)]
    calls: list[int] = []

    def measure(row: int) -> float:
        calls.append(row)
        return 1.0 + 0.1 * row

    problem = Problem("calls", names, {"n": list(range(1, 9))}, [1.0] * 8, decisions.ranking(names), Measured(measure))
    loop = modex(replace(problem, cost=2.0), budget=9.0, stop=0.0)
    assert loop.ended == "budget"
    assert len(calls) == loop.measurements == 4
    assert loop.steps[-1].spent == 8.0
    assert len(loop.table()) == 8
    assert len(loop.log()) == 5


@pytest.mark.parametrize("name", [n for n in READY if n != "matmul"])
def test_ready_problems_start(name: str) -> None:
    """Each can be measured and its first intervals hold positive numbers."""
    loop = modex(name, measurements=2, stop=0.0)
    assert loop.measurements == 2
    table = loop.table()
    assert (table["low"] > 0).all()
    assert (table["low"] <= table["high"]).all()


def test_microbenchmark_is_timed_here() -> None:
    """A rate is positive and finite, whatever the machine."""
    problem = find("matmul:largest=64")
    value = problem.source.measure(0, 0)  # type: ignore[union-attr]
    assert value is not None
    assert value > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "must be a YAML file"),
        ("scream:machine=Fugaku", "must be one of"),
        ("scream:target=fast", "a number"),
        ("scream:colour=red", "option=value"),
        ("dycore:share=2", "between 0 and 1"),
        ("xr-layers:pes=7", "must be one of"),
        ("training:gpus=3", "at least 4 layouts"),
    ],
)
def test_wrong_names_and_options_are_refused(text: str, message: str) -> None:
    """With what would be right."""
    with pytest.raises(SpecError, match=message):
        modex(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": [1.0]}, "one entry a candidate"),
        ({"predicted": [0.0] * SIZE}, "positive"),
        ({"cost": [1.0, 2.0]}, "cost"),
        ({"error": 0.0}, "error"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_wrong_problems_are_refused(change: dict[str, object], message: str) -> None:
    """Each fault names its field."""
    with pytest.raises(SpecError, match=message):
        replace(curve(), **change)


@pytest.mark.parametrize(
    "wrong", [{"strategy": "guess"}, {"stop": 1.0}, {"level": 0.0}, {"reserve": 1}, {"budget": -1.0}, {"seed": -1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    """Before anything is measured."""
    with pytest.raises(SpecError, match=next(iter(wrong))):
        modex(curve(), **wrong)  # type: ignore[arg-type]


YAML = """name: smallest node count
table: runs.csv
label: [nodes, compiler]
features: [nodes, compiler]
predicted: model
measured: seconds
cost: nodes
unit: s
decision: {kind: cheapest, cost: nodes, target: 50}
"""
RUNS = """nodes,compiler,model,seconds
1,gcc,100,130
1,gcc,100,128
2,gcc,50,68
4,gcc,25,36
1,clang,100,
"""


def written(folder: Path, text: str = YAML) -> str:
    """A problem file beside its table."""
    (folder / "runs.csv").write_text(RUNS)
    (folder / "problem.yaml").write_text(text)
    return str(folder / "problem.yaml")


def test_a_problem_in_yaml(tmp_path: Path) -> None:
    """Repetitions are rows of the same label; blanks are not measured yet."""
    problem = find(written(tmp_path))
    assert list(problem.names) == ["1 gcc", "2 gcc", "4 gcc", "1 clang"]
    assert [problem.source.repeats(i) for i in range(4)] == [2, 1, 1, 0]  # type: ignore[union-attr]
    assert modex(problem, stop=0.0).decision == "4 gcc"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("predicted: model", "predicted: modell", "must be one of nodes"),
        ("kind: cheapest", "kind: cheap", "did you mean 'cheapest'"),
        (", target: 50", "", "needs a cost and a target"),
        ("runs.csv", "walks.csv", "cannot be read"),
        ("predicted: model", "predicted: compiler", "positive"),
        ("cost: nodes\nunit", "cost: -1\nunit", "cost"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """With the field and what would be right."""
    with pytest.raises(SpecError, match=message):
        modex(written(tmp_path, YAML.replace(old, new)))


def shell() -> typer.Typer:
    """A command line that holds the command and one more."""
    app = typer.Typer()
    cli.attach(app)
    app.command("other")(lambda: None)
    return app


def test_command_line(tmp_path: Path) -> None:
    """JSON, a log that is gone on with, values told, and a contest."""
    runner, app, file = CliRunner(), shell(), str(tmp_path / "log.json")
    done = runner.invoke(app, ["modex", "dycore:device=CPU", "--json", "--file", file, "--measurements", "1"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["measurements"] == 1
    done = runner.invoke(app, ["modex", "dycore:device=CPU", "--resume", file, "--measurements", "2", "--stop", "0"])
    assert "decision" in done.output
    done = runner.invoke(app, ["modex", "dycore:device=CPU", "--compare", "1", "--json"])
    assert {row["strategy"] for row in json.loads(done.output)} == {*acquire.NAMES, "unaided"}
    for wrong in (["--tell", "fast"], ["--resume", str(tmp_path / "none.json")], ["--figure", "x.doc"]):
        assert isinstance(runner.invoke(app, ["modex", "dycore", *wrong]).exception, SpecError)


@pytest.mark.parametrize("name", ["dycore", "xr-layers"])
def test_figure_shows_every_step(name: str) -> None:
    """One decision as intervals of its options, many as values against what was expected."""
    import plotly.graph_objects as go

    from dse.view.modex import loop_figure

    loop = modex(name, measurements=3, stop=0.0)
    figure = loop_figure(loop)
    assert list(figure.data[-1].x) == [0, 1, 2, 3]
    assert list(figure.data[-1].y) == pytest.approx([100 * step.probability for step in loop.steps])
    go.Figure(figure.to_dict())  # every property is one that Plotly knows


def test_tables_for_studies() -> None:
    """Every strategy and whoever has no model, by group; and the steps of one loop."""
    groups = {"A100": ("dycore:device=CPU,share=0.3", "dycore:device=CPU,share=0.9")}
    found = Contest(groups=groups, seeds=3).table(print)
    assert found.rows.set_index("strategy").index.tolist() == ["regret", "random", "unaided"]
    alone = found.rows.set_index("strategy")
    assert alone["to_unaided"]["unaided"] == alone["to_random"]["random"] == 1
    steps = Steps(problem="dycore:device=A100", measurements=2).table(print).rows
    assert steps["number"].tolist() == [0, 1, 2]

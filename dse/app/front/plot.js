// A Plotly figure that follows the kernel: draws the latest figure it was given and reports every click and brush once.
// Plotly's own code is asked from the kernel once a page and shared by all figures.
const STORE = (globalThis.__dse_plotly ??= { waiting: [], library: null, asked: 0, seen: new Map() });

function evaluate(buffer) {
  const module = { exports: {} };
  const text = new TextDecoder().decode(buffer);
  new Function("module", "exports", "define", text)(module, module.exports, undefined);
  return module.exports;
}

function library(model) {
  if (STORE.library) return Promise.resolve(STORE.library);
  model.on("msg:custom", (message, buffers) => {
    if (message.type !== "plotly" || STORE.library) return;
    STORE.library = evaluate(buffers[0]);
    STORE.waiting.splice(0).forEach((ready) => ready(STORE.library));
  });
  const ask = () => {
    if (STORE.library || Date.now() - STORE.asked < 3000) return;
    STORE.asked = Date.now(); // a widget whose kernel is gone never answers: another one asks after a while
    model.send({ type: "plotly" });
  };
  ask();
  const timer = setInterval(ask, 1000);
  return new Promise((ready) => STORE.waiting.push(ready)).then((found) => (clearInterval(timer), found));
}

const NARROW = 480; // px: below it legends have fewer columns
// what Plotly promises, or two seconds: a promise that it forgets must not keep the next figure from being drawn
const soon = (promise) => Promise.race([promise, new Promise((ready) => setTimeout(ready, 2000))]);

const number = (value) => (typeof value === "number" && !Number.isFinite(value) ? null : value);

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "dse-plot";
  el.appendChild(box);
  let busy = false, next = null, last = "", narrow = false, resized = false, drawn = false, gone = false, programmatic = false;
  const send = (message) => model.send({ ...message, revision: model.get("revision") });

  function listen() {
    box.on("plotly_click", (event) => {
      const points = event.points.map((p) => ({
        curve: p.curveNumber, point: p.pointNumber ?? p.pointIndex ?? null,
        x: number(p.x) ?? null, y: number(p.y) ?? null, name: p.data.name ?? "", meta: p.data.meta ?? null, id: p.id ?? null,
      }));
      send({ type: "click", points });
    });
    box.on("plotly_selected", (event) => {
      if (programmatic) return;
      if (event?.range) send({ type: "brush", range: event.range });
      else if (event?.lassoPoints) send({ type: "brush", lasso: event.lassoPoints });
      else if (box._fullLayout?.selections?.length) {
        // a box over traces without points of their own, such as heat maps: Plotly reports the box alone
        const s = box.layout.selections[box.layout.selections.length - 1];
        if (s.type === "rect") send({ type: "brush", range: { [s.xref ?? "x"]: [s.x0, s.x1], [s.yref ?? "y"]: [s.y0, s.y1] } });
      }
    });
    box.on("plotly_deselect", () => programmatic || send({ type: "clear" }));
    box.on("plotly_restyle", ([change]) => {
      if (programmatic || !Object.keys(change).some((key) => key.includes("constraintrange"))) return;
      send({ type: "ranges", ranges: box.data[0].dimensions.map((d) => d.constraintrange ?? null) });
    });
  }

  // what is out of sight is neither computed nor drawn until it comes back, so that what is in sight follows at once
  let seen = true, pending = false;
  const key = model.get("key"); // one figure may be shown in several places: those that are in sight
  if (!STORE.seen.has(key)) STORE.seen.set(key, new Set());
  const views = STORE.seen.get(key);
  const sight = new IntersectionObserver((entries) => {
    seen = entries.at(-1).isIntersecting;
    box.dataset.seen = seen;
    views[seen ? "add" : "delete"](box);
    // with its time: messages may overtake each other between the kernel's threads
    send({ type: "seen", seen: views.size > 0, at: performance.timeOrigin + performance.now() });
    if (seen && pending) paint();
  });
  sight.observe(box);
  function follow() {
    if (seen || !drawn) paint();
    else pending = true;
  }

  async function paint() {
    pending = false;
    next = { figure: model.get("figure"), revision: model.get("revision") };
    if (busy) return; // the one that is drawing takes the latest when it is done
    busy = true;
    try {
      const Plotly = await library(model);
      while (next && !gone) {
        const now = next;
        next = null;
        if (now.figure) await draw(Plotly, now.figure, now.revision);
      }
    } finally {
      busy = programmatic = false; // what cannot be drawn must not keep the next one from being drawn
    }
  }

  async function draw(Plotly, figure, revision) {
    if (figure !== last) {
      last = figure;
      resized = false;
      const { data, layout } = JSON.parse(figure);
      delete layout.width;
      layout.autosize = true;
      layout.selectionrevision = revision; // what is selected is the kernel's to say
      narrow = box.clientWidth < NARROW;
      if (narrow && layout.legend?.orientation === "h") {
        layout.height += 19 * data.filter((t) => t.showlegend !== false).length;
        delete layout.legend.entrywidth; // one column as wide as it needs
      }
      box.style.height = `${layout.height}px`;
      programmatic = true;
      await soon(Plotly.react(box, data, layout, { displaylogo: false, modeBarButtonsToRemove: ["toImage"] }));
      programmatic = false;
      if (!drawn) listen();
      drawn = true;
    } else if (resized && box.offsetWidth) {
      resized = false;
      await soon(Plotly.Plots.resize(box));
    }
    box.dataset.revision = revision;
  }

  model.on("change:figure change:revision", follow); // a finer figure has the revision of the coarse one
  paint();
  const watch = new ResizeObserver(() => {
    if (!drawn || !box.offsetWidth) return;
    if (narrow !== box.clientWidth < NARROW) last = ""; // a legend below needs more lines, or less
    resized = true;
    paint(); // one after the other: Plotly loses its way when it resizes what it draws
  });
  watch.observe(el);
  return () => {
    gone = true;
    watch.disconnect();
    model.off("change:figure change:revision", follow);
    sight.disconnect();
    views.delete(box);
    if (drawn) STORE.library.purge(box);
  };
}

export default { render };

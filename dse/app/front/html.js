// HTML made by the kernel. Elements with data-do report clicks, inputs and selects their new text.
function render({ model, el }) {
  const root = document.createElement("div");
  root.className = `dse-html ${model.get("kind")}`;
  el.appendChild(root);
  const dark = document.body.dataset.jpThemeLight === "false";
  if (model.get("asks_theme")) model.send({ do: "theme", value: dark ? "dark" : "light" });

  function draw() {
    const active = root.contains(document.activeElement) ? document.activeElement : null;
    const typing = active?.tagName === "INPUT" && active.value !== active.defaultValue ? active.value : null;
    const key = active?.dataset.do;
    const open = new Set([...root.querySelectorAll("details[data-key][open]")].map((d) => d.dataset.key));
    const scrolls = [...root.querySelectorAll("[data-scroll]")].map((e) => [e.dataset.scroll, e.scrollTop]);
    root.innerHTML = model.get("html");
    root.querySelectorAll("details[data-key]").forEach((d) => open.has(d.dataset.key) && (d.open = true));
    scrolls.forEach(([name, top]) => {
      const found = root.querySelector(`[data-scroll="${CSS.escape(name)}"]`);
      if (found) found.scrollTop = top;
    });
    if (!key) return;
    const again = root.querySelector(`[data-do="${CSS.escape(key)}"]`);
    again?.focus({ preventScroll: true });
    if (again && typing !== null) again.value = typing; // what is being typed outlives an update
  }

  root.addEventListener("click", (event) => {
    const target = event.target.closest("[data-do]");
    if (target && !["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName)) {
      event.preventDefault();
      model.send({ do: target.dataset.do, value: target.dataset.value ?? null });
    }
  });
  root.addEventListener("change", (event) => {
    const target = event.target.closest("[data-do]");
    if (!target) return;
    const value = target.type === "checkbox" ? target.checked : target.value;
    target.defaultValue = target.value;
    model.send({ do: target.dataset.do, value });
  });
  // keys of the notebook (such as "dd") must not act while somebody types here
  root.addEventListener("keydown", (event) => ["INPUT", "SELECT"].includes(event.target.tagName) && event.stopPropagation());

  model.on("change:html", draw);
  draw();
  return () => model.off("change:html", draw);
}

export default { render };

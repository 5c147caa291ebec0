// Tells the values of a chart near the pointer, and switches between drawings. Lines hold the units of their data.
const SVG = "http://www.w3.org/2000/svg";
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);

const written = (value) => Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });

function lineOf(line) {
  const { a, d, e, f } = line.transform.baseVal.consolidate().matrix;
  const points = [...line.points].map(({ x, y }) => ({ x, y, right: a * x + e, down: d * y + f }));
  return { name: line.dataset.name, colour: line.classList[1], points };
}

function nearest(lines, right, down) {
  let best = null;
  for (const line of lines) {
    for (const point of line.points) {
      const far = Math.abs(point.right - right) * 4 + Math.abs(point.down - down);
      if (!best || far < best.far) best = { far, line, point };
    }
  }
  return best;
}

for (const field of document.querySelectorAll(".field")) {
  const frame = field.querySelector("svg");
  if (!frame) continue;
  const lines = [...frame.querySelectorAll("polyline")].map(lineOf);
  const mark = document.createElementNS(SVG, "circle");
  mark.setAttribute("r", "5");
  const hide = () => { tip.hidden = true; mark.remove(); };
  field.addEventListener("pointerleave", hide);
  field.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    const wide = field.getBoundingClientRect().width;
    const top = Number(frame.getAttribute("y")), high = Number(frame.getAttribute("height"));
    const down = event.clientY - field.getBoundingClientRect().top - top;
    const found = nearest(lines, (100 * (event.clientX - field.getBoundingClientRect().left)) / wide, (100 * down) / high);
    if (!found) return hide();
    const { line, point } = found;
    const value = field.dataset.scale === "log" ? 10 ** point.y : point.y;
    mark.setAttribute("class", `near ${line.colour}`);
    mark.setAttribute("cx", `${point.right}%`);
    mark.setAttribute("cy", top + (high * point.down) / 100);
    field.append(mark);
    tip.textContent = `${line.name ? `${line.name}: ` : ""}${written(value)} at ${field.dataset.x} ${written(point.x)}`;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 18}px`;
  });
}

for (const choices of document.querySelectorAll("[data-switch]")) {
  const drawings = document.querySelectorAll(`#chart-${choices.dataset.switch} > [data-over]`);
  choices.hidden = false;
  choices.addEventListener("change", () => {
    const over = choices.querySelector("input[type=radio]:checked").value;
    const scale = choices.querySelector("input[type=checkbox]")?.checked ? "log" : "linear";
    for (const one of drawings) one.hidden = one.dataset.over !== over || one.dataset.scale !== scale;
  });
}

const options = {
  mode: "vega-lite",
  renderer: "svg",
  actions: false,
  ast: true,
  defaultStyle: false,
  tooltip: { disableDefaultStyle: true },
};

function draw(place) {
  const spec = JSON.parse(document.getElementById(place.dataset.chart).textContent);
  if (place.dataset.scale) {
    for (const layer of spec.layer) layer.encoding.y.scale = { type: place.dataset.scale };
  }
  vegaEmbed(place, spec, options).catch((error) => {
    console.error(error);
    place.textContent = "This chart could not be drawn here; its values are in the table below.";
  });
}

for (const place of document.querySelectorAll("[data-chart]")) draw(place);

for (const choices of document.querySelectorAll("[data-switch]")) {
  const place = document.querySelector(`[data-chart="spec-${choices.dataset.switch}"]`);
  choices.hidden = false;
  choices.addEventListener("change", ({ target }) => {
    if (target.type === "radio") place.dataset.chart = target.value;
    else place.dataset.scale = target.checked ? "log" : "";
    draw(place);
  });
}

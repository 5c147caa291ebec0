for (const place of document.querySelectorAll("[data-chart]")) {
  const spec = JSON.parse(document.getElementById(place.dataset.chart).textContent);
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true,
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  };
  vegaEmbed(place, spec, options).catch((error) => {
    console.error(error);
    place.textContent = "This chart could not be drawn here; its values are in the table below.";
  });
}

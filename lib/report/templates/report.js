"use strict";
// Escape leaves a plot in full size, and a gallery with several classes gets a filter; the page works without both.
addEventListener("keydown", (event) => {
  const close = event.key === "Escape" && document.querySelector("figure:target .close");
  if (close) close.click();
});
for (const gallery of document.querySelectorAll(".gallery")) {
  const images = [...gallery.children];
  const names = [...new Set(images.flatMap((image) => [image.dataset.actual, image.dataset.predicted]))].sort();
  if (images.length < 8) continue;
  const label = document.createElement("label");
  label.className = "filter";
  const select = document.createElement("select");
  select.append(new Option("all", ""), ...names.map((name) => new Option(name, "=" + name)));
  const shown = document.createElement("output");
  label.append("Class", select, shown);
  gallery.before(label);
  select.addEventListener("change", () => {
    for (const image of images) {
      const { actual, predicted } = image.dataset;
      image.hidden = select.value !== "" && select.value !== "=" + actual && select.value !== "=" + predicted;
    }
    shown.textContent = `${images.filter((image) => !image.hidden).length} of ${images.length}`;
  });
}

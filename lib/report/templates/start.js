showThumbnails(40);
const maps = page.maps.map((map, number) => {
  const root = document.querySelector(`[data-map="${number}"]`);
  return map && root ? new EmbeddingMap(root, map) : null;
});
const matrices = [...document.querySelectorAll(".errors")].map((root) => new Errors(root, maps[Number(root.dataset.model)]));

// Escape leaves a plot in full size, or what was chosen in the matrices, the legends and the maps.
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const close = document.querySelector("figure:target .close");
  if (close) {
    close.click();
    return;
  }
  for (const matrix of matrices) matrix.choose(null);
  for (const map of maps) {
    map?.single(null);
    map?.show(-1);
  }
});

for (const [name, printing] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(name, () => {
    if (waiting.length) showThumbnails(waiting.length);
    for (const map of maps) {
      if (map) map.printing = printing;
      map?.draw();
    }
  });
}

"use strict";
// What the page shows and its elements do not hold: thumbnails, tiles, points. Each picture stands here once.
const page = JSON.parse(document.getElementById("page-data").textContent);

const address = (jpeg) => "data:image/jpeg;base64," + jpeg;

// The text in an element, which may break after "_" and "/".
function write(element, text) {
  const parts = text.split(/(?<=[_/])/).flatMap((part) => [part, document.createElement("wbr")]);
  element.replaceChildren(...parts);
}

// A few at a time, so that the page answers meanwhile; the browser decodes what comes into view.
const waiting = [...document.querySelectorAll("img[data-thumbnail]")];

function showThumbnails(atOnce) {
  for (const image of waiting.splice(0, atOnce)) {
    image.src = address(page.thumbnails[Number(image.dataset.thumbnail)]);
  }
  if (waiting.length) setTimeout(showThumbnails, 0, atOnce);
}

// Draws images into the card of a map: from a thumbnail of its own if there is one, or from the sprite of its split.
class Pictures {
  constructor() {
    this.sprites = new Map();
  }

  sprite(number) {
    if (!this.sprites.has(number)) {
      const image = new Image();
      image.src = address(page.sprites[number].jpeg);
      this.sprites.set(number, image.decode().then(() => image));
    }
    return this.sprites.get(number);
  }

  async of(map, point) {
    if (map.thumbnails[point] >= 0) {
      const image = new Image();
      image.src = address(page.thumbnails[map.thumbnails[point]]);
      await image.decode();
      return { image, left: 0, top: 0, width: image.width, height: image.height };
    }
    if (map.tiles[point] < 0) return null;
    const { side, columns } = page.sprites[map.sprite];
    const tile = map.tiles[point];
    const image = await this.sprite(map.sprite);
    return { image, left: (tile % columns) * side, top: Math.floor(tile / columns) * side, width: side, height: side };
  }
}

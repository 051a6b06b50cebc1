// A confusion matrix whose cells filter the gallery beside it, and single out the same images on the map.
class Errors {
  constructor(root, map) {
    this.root = root;
    this.map = map;
    this.cells = [...root.querySelectorAll(".matrix button")];
    this.images = [...root.querySelectorAll(".gallery li")];
    this.status = root.querySelector("[role=status]");
    this.everything = this.status ? [...this.status.childNodes] : [];
    this.clearButton = root.querySelector(".clear");
    this.chosen = null;
    this.names = [...root.querySelectorAll(".matrix thead button")].map((button) => button.title);
    this.places = new Map(this.cells.map((cell) => [this.key(cell.dataset.a, cell.dataset.p), cell]));
    this.wire();
  }

  key(actual, predicted) {
    return `${actual},${predicted}`;
  }

  wire() {
    const table = this.root.querySelector(".matrix");
    for (const cell of this.cells) {
      cell.tabIndex = -1;
      if (cell.dataset.n) cell.ariaLabel = this.inWords(cell);
    }
    this.cells[0].tabIndex = 0;
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("button");
      if (cell) this.choose(cell === this.chosen ? null : cell);
    });
    table.addEventListener("focusin", (event) => this.rove(event.target));
    table.addEventListener("keydown", (event) => this.move(event));
    this.clearButton?.addEventListener("click", () => {
      this.chosen?.focus();
      this.choose(null);
    });
    for (const input of this.root.querySelectorAll(".choices input")) {
      input.addEventListener("change", () => this.count(input.value));
    }
  }

  inWords({ dataset: { a, p, n, s } }) {
    const images = `${n} ${n === "1" ? "image" : "images"}, ${s} % of the row`;
    return a === p ? `${this.names[a]}, right: ${images}` : `${this.names[a]} predicted as ${this.names[p]}: ${images}`;
  }

  count(unit) {
    for (const cell of this.cells) {
      if (cell.dataset.n) cell.textContent = unit === "share" ? cell.dataset.s : cell.dataset.n;
    }
  }

  rove(cell) {
    for (const other of this.cells) if (other.tabIndex === 0) other.tabIndex = -1;
    cell.tabIndex = 0;
  }

  // To the next cell with images in the direction of the arrow; Home and End to the first and the last of the row.
  move(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    let [row, column] = [Number(event.target.dataset.a), Number(event.target.dataset.p)];
    let next = null;
    if (event.key === "Home") next = this.places.get(this.key(row, -1)) ?? this.places.get(this.key(row, 0));
    if (event.key === "End") next = [...this.places.values()].findLast((cell) => Number(cell.dataset.a) === row);
    for (const step of steps[event.key] ? [steps[event.key]] : []) {
      while (!next && row >= -1 && column >= -1 && row < this.names.length && column < this.names.length) {
        row += step[0];
        column += step[1];
        next = this.places.get(this.key(row, column));
      }
    }
    if (steps[event.key] || next) event.preventDefault();
    next?.focus();
  }

  choose(cell) {
    this.chosen?.setAttribute("aria-pressed", "false");
    cell?.setAttribute("aria-pressed", "true");
    this.chosen = cell;
    const [actual, predicted] = cell ? [Number(cell.dataset.a), Number(cell.dataset.p)] : [-1, -1];
    for (const image of this.images) {
      const fits = (wanted, given) => wanted < 0 || wanted === Number(given);
      image.hidden = !(fits(actual, image.dataset.a) && fits(predicted, image.dataset.p));
    }
    if (this.clearButton) this.clearButton.hidden = !cell;
    if (this.status) this.say(cell, actual, predicted);
    this.root.querySelector(".gallery")?.scrollTo(0, 0);
    this.map?.single(cell ? { actual, predicted } : null);
  }

  say(cell, actual, predicted) {
    if (!cell) {
      this.status.replaceChildren(...this.everything);
      return;
    }
    const wrong = this.cells.filter(({ dataset: { a, p, n } }) =>
      n && a !== p && (actual < 0 || Number(a) === actual) && (predicted < 0 || Number(p) === predicted));
    const all = wrong.reduce((sum, { dataset }) => sum + Number(dataset.n), 0);
    const shown = this.images.filter((image) => !image.hidden).length;
    const what = actual < 0 ? `predicted as ${this.names[predicted]}` : predicted < 0 ? `true class ${this.names[actual]}`
      : `${this.names[actual]} predicted as ${this.names[predicted]}`;
    this.status.textContent = actual === predicted
      ? `${cell.dataset.n} of ${this.names[actual]} right${this.map ? "; they are highlighted on the map" : ""}.`
      : `${all} ${all === 1 ? "mistake" : "mistakes"}: ${what}${shown < all ? `; ${shown} shown${this.map ? ", all highlighted on the map" : ""}` : ""}.`;
  }
}

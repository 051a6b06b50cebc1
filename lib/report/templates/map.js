// A map of embeddings: hover or arrow keys show an image, the legend singles out a class, the matrix a pair.
const pictures = new Pictures();
const NEAR_PX = 16;

class EmbeddingMap {
  constructor(root, map) {
    this.root = root;
    this.map = map;
    this.canvas = root.querySelector(".stage > canvas");
    this.card = root.querySelector(".card");
    this.kind = 0;
    this.current = -1;
    this.wanted = null;
    this.printing = false;
    this.right = map.actual.map((actual, point) => actual === map.predicted[point]);
    // Wrong ones lie in front.
    this.order = [...map.actual.keys()].sort((one, other) => this.right[other] - this.right[one]);
    this.wire();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  wire() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => this.show(this.nearest(event)));
    canvas.addEventListener("pointerdown", (event) => this.show(this.nearest(event)));
    canvas.addEventListener("pointerleave", () => this.show(-1));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.show(this.first()));
    canvas.addEventListener("blur", () => this.show(-1));
    canvas.addEventListener("keydown", (event) => this.move(event));
    for (const input of this.root.querySelectorAll(".choices input")) {
      input.addEventListener("change", () => {
        this.kind = Number(input.value);
        this.show(-1);
        this.draw();
      });
    }
    this.keys = [...this.root.querySelectorAll(".legend button")];
    this.keys.forEach((key, actual) => key.addEventListener("click", () => {
      this.single(key.ariaPressed === "true" ? null : { actual, predicted: -1 });
    }));
  }

  // The place of a point in pixels of the page.
  place(point) {
    const { places } = this.map.kinds[this.kind];
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = Math.min(width, height) - 28;
    const shift = (extent) => (extent - scale) / 2;
    return [
      shift(width) + (places[2 * point] / 10000) * scale,
      shift(height) + (places[2 * point + 1] / 10000) * scale,
    ];
  }

  lit(point) {
    const { wanted, map } = this;
    if (!wanted) return true;
    const fits = (asked, given) => asked < 0 || asked === given;
    return fits(wanted.actual, map.actual[point]) && fits(wanted.predicted, map.predicted[point]);
  }

  single(wanted) {
    this.wanted = wanted;
    this.keys.forEach((key, actual) => {
      key.ariaPressed = String(wanted !== null && wanted.predicted < 0 && wanted.actual === actual);
    });
    this.draw();
  }

  nearest({ offsetX, offsetY }) {
    let [best, distance] = [-1, NEAR_PX];
    for (const point of this.order) {
      const [x, y] = this.place(point);
      const away = Math.hypot(x - offsetX, y - offsetY);
      if (away <= distance && this.lit(point)) [best, distance] = [point, away];
    }
    return best;
  }

  first() {
    return this.current >= 0 ? this.current : this.order.findLast((point) => this.lit(point)) ?? -1;
  }

  move(event) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!direction) return;
    event.preventDefault();
    if (this.current < 0) {
      this.show(this.first());
      return;
    }
    const [x, y] = this.place(this.current);
    let [best, cost] = [this.current, Infinity];
    for (const point of this.order) {
      const [right, down] = [this.place(point)[0] - x, this.place(point)[1] - y];
      const along = right * direction[0] + down * direction[1];
      const aside = Math.abs(right * direction[1]) + Math.abs(down * direction[0]);
      if (point !== this.current && along > 0 && along + 2 * aside < cost && this.lit(point)) {
        [best, cost] = [point, along + 2 * aside];
      }
    }
    this.show(best);
  }

  show(point) {
    if (point === this.current) return;
    this.current = point;
    this.card.hidden = point < 0;
    this.canvas.classList.toggle("on", point >= 0);
    this.draw();
    if (point < 0) return;
    const { map, card } = this;
    const [actual, predicted] = card.querySelectorAll("b");
    write(actual, map.classes[map.actual[point]]);
    write(predicted, map.classes[map.predicted[point]]);
    predicted.className = this.right[point] ? "" : "wrong";
    card.querySelector(".pair > span:last-child").textContent = `${(100 * map.confidence[point]).toFixed(1)} %`;
    write(card.querySelector(".path"), map.paths[point]);
    this.putCard(point);
    this.picture(point);
  }

  putCard(point) {
    const { card, canvas } = this;
    const [x, y] = this.place(point);
    const left = x + 16 + card.offsetWidth <= canvas.clientWidth ? x + 16 : x - 16 - card.offsetWidth;
    card.style.left = `${Math.max(0, Math.min(left, canvas.clientWidth - card.offsetWidth))}px`;
    card.style.top = `${Math.max(0, Math.min(y - 40, canvas.clientHeight - card.offsetHeight))}px`;
  }

  async picture(point) {
    const small = this.card.querySelector("canvas");
    const pen = small.getContext("2d");
    pen.clearRect(0, 0, small.width, small.height);
    small.hidden = this.map.thumbnails[point] < 0 && this.map.tiles[point] < 0;
    const found = await pictures.of(this.map, point);
    if (!found || point !== this.current) return;
    const scale = Math.min(small.width / found.width, small.height / found.height);
    const [width, height] = [found.width * scale, found.height * scale];
    pen.imageSmoothingQuality = "high";
    pen.drawImage(found.image, found.left, found.top, found.width, found.height,
      (small.width - width) / 2, (small.height - height) / 2, width, height);
  }

  draw() {
    const { canvas, map } = this;
    const [width, height, density] = [canvas.clientWidth, canvas.clientHeight, this.printing ? 3 : devicePixelRatio];
    if (!width) return;
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
    const pen = canvas.getContext("2d");
    pen.scale(density, density);
    const ink = this.printing ? "#000" : getComputedStyle(canvas).color;
    const paper = this.printing ? "#fff" : getComputedStyle(canvas).backgroundColor;
    const many = Math.min(1, Math.max(0, (map.actual.length - 200) / 2500));
    const radius = 5 - 2 * many;
    for (const lit of this.wanted ? [false, true] : [true]) {
      for (const point of this.order) {
        if (this.lit(point) === lit) this.mark(pen, point, radius, lit ? 0.9 - 0.2 * many : 0.1, paper, ink);
      }
    }
    if (this.current >= 0) this.ring(pen, radius + 4, ink);
  }

  mark(pen, point, radius, alpha, paper, ink) {
    const [x, y] = this.place(point);
    const [outline, fill] = this.map.looks[this.map.actual[point]];
    pen.globalAlpha = alpha;
    if (this.right[point]) {
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      pen.fillStyle = fill;
      pen.fill();
      pen.lineWidth = fill === outline ? 0.6 : 1.4;
      pen.strokeStyle = fill === outline ? paper : outline;
      pen.stroke();
      return;
    }
    const cross = new Path2D(`M${x - radius} ${y - radius}l${2 * radius} ${2 * radius}m0 ${-2 * radius}l${-2 * radius} ${2 * radius}`);
    pen.lineCap = "round";
    for (const [colour, thickness] of [[fill === outline ? ink : outline, 5.2], [fill, 2.6]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thickness * (radius / 5);
      pen.stroke(cross);
    }
  }

  ring(pen, radius, ink) {
    const [x, y] = this.place(this.current);
    pen.globalAlpha = 1;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.stroke();
  }
}

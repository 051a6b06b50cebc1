// Tables that are sorted by the column whose heading is clicked, and the other way round by a second click.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const words = new Intl.Collator(undefined, { numeric: true });

  // A number is what the cell begins with: `< 0.001` is one, and a dash, which stands for none, comes last.
  const valueOf = (row, column) => {
    const text = row.cells[column].innerText.trim();
    const number = Number.parseFloat(text.replaceAll(",", "").replace(/^<\s*/, ""));
    if (headings[column].className !== "n" && !headings[column].dataset.number) return text;
    return Number.isNaN(number) ? Infinity : number;
  };

  const sortBy = (column) => {
    const falling = headings[column].ariaSort === "ascending";
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
    rows.sort(([one], [other]) => {
      if (typeof one === "string") return (falling ? -1 : 1) * words.compare(one, other);
      if (one === other) return 0;
      if (one === Infinity || other === Infinity) return one === Infinity ? 1 : -1;
      return falling ? other - one : one - other;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    for (const heading of headings) heading.ariaSort = null;
    headings[column].ariaSort = falling ? "descending" : "ascending";
  };

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(column));
  });
}

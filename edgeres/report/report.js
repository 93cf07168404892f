"use strict";
// Sorting and CSV for every table; without scripts the page reads the same, only these buttons are missing.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (cell) => cell.dataset.value ?? cell.textContent;

  const order = (a, b) => {
    if (a === "" || b === "") return 0;
    return isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
      // What has no value stands last either way.
      rows.sort(([a], [b]) => (a === "") - (b === "") || (down ? order(b, a) : order(a, b)));
      body.append(...rows.map(([, row]) => row));
    });
  });

  const quote = (text) => {
    // A spreadsheet would run text that starts like a formula.
    const safe = isNaN(text) && /^[=+\-@\t\r\n＝＋－＠]/.test(text) ? `'${text}` : text;
    return `"${safe.replaceAll('"', '""')}"`;
  };
  const label = table.caption.textContent;
  const download = document.createElement("button");
  download.type = "button";
  download.className = "download";
  download.textContent = "Download CSV";
  download.setAttribute("aria-label", `Download CSV: ${label}`);
  download.addEventListener("click", () => {
    const lines = [...table.rows].map((row) => [...row.cells].map((cell) => quote(value(cell))).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = `${label.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  });
  table.closest(".scroll").after(download);
}

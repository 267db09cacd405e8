"use strict";
(() => {
  const board = document.getElementById("board"), body = board.tBodies[0];
  const heads = [...board.tHead.rows[0].cells], rows = [...body.rows];
  const text = document.getElementById("text"), state = document.getElementById("state");
  const shown = document.getElementById("shown");
  const value = (row, column) => {
    const cell = row.cells[column], raw = cell.dataset.v ?? cell.textContent.trim();
    return raw === "" || isNaN(raw) ? raw : Number(raw);
  };
  const sort = (column) => {
    const down = heads[column].getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((one, two) => {
      const a = value(one, column), b = value(two, column);
      if (a === "" || b === "") return (a === "") - (b === "");
      return typeof a === "number" && typeof b === "number" ? sign * (a - b) : sign * String(a).localeCompare(String(b));
    });
    body.append(...rows);
  };
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const fits = (!wanted || [...row.cells].some((cell) => cell.textContent.toLowerCase().includes(wanted)))
        && (!state.value || row.cells[2].textContent === state.value);
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} trial${count === 1 ? "" : "s"}`;
  };
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => sort(column)));
  text.addEventListener("input", filter);
  state.addEventListener("change", filter);
  text.form.addEventListener("submit", (event) => event.preventDefault());
  const copy = document.getElementById("copy");
  copy?.addEventListener("click", async () => {
    const source = document.getElementById("configuration"), said = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(source.textContent);
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(source);
      said.textContent = "Selected: press Ctrl+C or Cmd+C.";
    }
  });
})();

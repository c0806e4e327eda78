"use strict";

const theme = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
  document.documentElement.dataset.theme = next;
  theme.textContent = `theme: ${next}`;
});

function order(cell) {
  return cell.dataset.order === undefined ? cell.textContent : Number(cell.dataset.order);
}

function compared(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  if (typeof one === "number") return -1;
  if (typeof other === "number") return 1;
  return one.localeCompare(other, undefined, { numeric: true });
}

for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  for (const [column, head] of heads.entries()) {
    head.tabIndex = 0;
    head.setAttribute("aria-sort", "none");
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, other) => {
        const found = compared(order(one.cells[column]), order(other.cells[column]));
        return up ? found : -found;
      });
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort();
    });
  }
}

const tip = document.getElementById("tip");
for (const figure of document.querySelectorAll("figure")) {
  for (const title of figure.querySelectorAll(".values title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  for (const entry of figure.querySelectorAll(".series span")) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append(...entry.childNodes);
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", shown);
      for (const part of figure.querySelectorAll(`svg [data-series="${entry.dataset.entry}"]`)) {
        part.classList.toggle("gone", !shown);
      }
    });
    entry.replaceWith(button);
  }
}
document.addEventListener("pointerover", (event) => {
  const told = event.target.dataset && event.target.dataset.tip;
  tip.hidden = !told;
  if (!told) return;
  tip.textContent = told;
  const box = event.target.getBoundingClientRect();
  const left = Math.min(box.right + 6, innerWidth - tip.offsetWidth - 4);
  tip.style.left = `${Math.max(left, 4)}px`;
  tip.style.top = `${Math.max(box.top - tip.offsetHeight - 4, 4)}px`;
});

"use strict";
// Everything is on the page already; this only shows one part of it at a time.
document.documentElement.classList.add("js");
const all = (root, query) => [...root.querySelectorAll(query)];
const pressed = (button, on) => button.setAttribute("aria-pressed", String(on));

// --- lines of a chart, switched by its legend
for (const key of all(document, "button.key")) {
  key.addEventListener("click", () => {
    const on = key.getAttribute("aria-pressed") !== "true";
    pressed(key, on);
    const lines = all(key.closest("figure"), "g.series");
    lines.find((line) => line.dataset.series === key.dataset.series).classList.toggle("off", !on);
  });
}

// --- one of several panels
const picks = all(document, ".pick").map((root) => ({
  root,
  panels: all(root, ":scope > .panel"),
  select: root.querySelector(":scope > .picker select"),
  buttons: all(root, ":scope > .picker > button"),
}));
const names = (pick) => (pick.select ? [...pick.select.options] : pick.buttons).map((part) => part.textContent);
const show = (pick, chosen) => {
  pick.panels.forEach((panel, number) => { panel.hidden = number !== chosen; });
  pick.buttons.forEach((button, number) => pressed(button, number === chosen));
  if (pick.select) pick.select.selectedIndex = chosen;
};
const choose = (pick, chosen) => {
  show(pick, chosen);
  if (!pick.root.dataset.sync) return;
  for (const other of picks) {
    const same = names(other).indexOf(names(pick)[chosen]);
    if (other !== pick && other.root.dataset.sync === pick.root.dataset.sync && same >= 0) show(other, same);
  }
};
for (const pick of picks) {
  show(pick, 0);
  pick.select?.addEventListener("change", () => choose(pick, pick.select.selectedIndex));
  pick.buttons.forEach((button, number) => button.addEventListener("click", () => choose(pick, number)));
}

// --- the rounds of an answer
for (const viewer of all(document, ".viewer")) {
  const last = Number(viewer.dataset.rounds);
  const range = viewer.querySelector("input[type=range]");
  const output = viewer.querySelector("output");
  const told = output.textContent;
  const tokens = all(viewer, ":scope > .answer > [data-round]");
  const rounds = all(viewer, ".rounds > li");
  const step = (to, whole) => {
    const round = Math.min(Math.max(to, 0), last);
    range.value = round;
    output.textContent = whole ? told : round ? `round ${round} of ${last}` : "before the first round";
    for (const token of tokens) {
      const own = Number(token.dataset.round);
      token.classList.toggle("later", own > round);
      token.classList.toggle("now", !whole && own === round);
    }
    for (const item of rounds) item.hidden = whole || Number(item.dataset.round) !== round;
  };
  const moves = { first: () => 0, back: () => Number(range.value) - 1, on: () => Number(range.value) + 1 };
  for (const button of all(viewer, "button[data-step]")) {
    const name = button.dataset.step;
    button.addEventListener("click", () => (name === "last" ? step(last, true) : step(moves[name](), false)));
  }
  range.addEventListener("input", () => step(Number(range.value), false));
  const rejected = viewer.querySelector("[data-rejected]");
  rejected.addEventListener("change", () => viewer.classList.toggle("accepted-only", !rejected.checked));
  step(last, true);
}

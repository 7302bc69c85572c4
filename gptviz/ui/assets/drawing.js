// Text is set through textContent only, so nothing in a token can become markup. The elements are in the order of the
// data, from the text to the next token, and so is what a screen reader reads.
export default function ({ data, parentElement, setTriggerValue }) {
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const boxOf = (box, act) => {
    const node = make(act ? "button" : "div", `box ${box.kind}`);
    node.dataset.name = box.title;
    node.append(make("span", "title", box.title));
    for (const chip of box.chips || []) node.append(make("span", "chip", chip));
    const output = make("span", "output");
    for (const part of ["shape", "length"]) if (box[part]) output.append(make("span", part, box[part]));
    if (output.childNodes.length) node.append(output);
    for (const part of ["parameters", "explanation"]) if (box[part]) node.append(make("span", part, box[part]));
    node.onclick = act || null;
    return node;
  };
  const linked = (box) => boxOf(box, box.page && (() => setTriggerValue("open", box.page)));
  const setUnfolded = (node, isUnfolded) => node.setAttribute("aria-expanded", String(isUnfolded));
  const folds = (box) => () => setTriggerValue("fold", box.fold);

  const step = (node, kind = "") => {
    const item = make("div", `step ${kind}`);
    item.append(node);
    return item;
  };
  // The parts of a block in two branches: what each one makes is added to the stream at its last part.
  const inside = (block) => {
    const panel = make("div", "inside");
    panel.setAttribute("role", "group");
    panel.setAttribute("aria-label", `Inside ${block.title}`);
    let branch;
    for (const part of block.inside) {
      branch ??= panel.appendChild(make("div", "branch"));
      branch.append(step(linked(part)));
      if (part.kind === "add") branch = undefined;
    }
    return panel;
  };
  const block = (box) => {
    const node = boxOf(box, folds(box));
    setUnfolded(node, Boolean(box.inside));
    return box.inside ? [step(node, "unfolded"), inside(box)] : [step(node)];
  };
  // Several folded blocks: a click shows their numbers, and a click on a number unfolds that block.
  const run = (box) => {
    const picks = make("div", "picks");
    for (const one of box.run) {
      const pick = picks.appendChild(make("button", "pick", one.fold));
      pick.dataset.name = one.title;
      pick.title = `${one.title}, ${one.length}`;
      pick.setAttribute("aria-label", pick.title);
      pick.onclick = folds(one);
    }
    const node = boxOf(box, () => setUnfolded(node, !(picks.hidden = !picks.hidden)));
    picks.hidden = true;
    setUnfolded(node, false);
    const item = step(node);
    item.append(picks);
    return [item];
  };
  const stack = (boxes) => {
    const node = make("div", "stack");
    node.style.setProperty("--n-rows", boxes.length);
    node.append(...boxes.flatMap((box) => (box.run ? run(box) : block(box))));
    return node;
  };
  const row = (boxes) => {
    const node = make("div", "row");
    for (const box of boxes) {
      if (node.childNodes.length) node.append(make("div", "arrow"));
      node.append(linked(box));
    }
    return node;
  };

  let root = parentElement.querySelector(".drawing");
  if (!root) {
    root = make("div", "drawing");
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "The model, from the text to the next token");
    parentElement.append(root);
  }
  const focused = parentElement.activeElement?.dataset.name;
  root.replaceChildren(
    row(data.text),
    make("div", "arrow"),
    row(data.embeddings),
    make("div", "arrow turn"),
    stack(data.blocks),
    make("div", "arrow"),
    row(data.head),
  );
  if (focused) [...root.querySelectorAll("button")].find((node) => node.dataset.name === focused)?.focus();
}

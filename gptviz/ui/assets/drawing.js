// Text is set through textContent only, so nothing in a token can become markup.
export default function ({ data, parentElement, setTriggerValue }) {
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const button = (box) => {
    const node = make(box.page || box.fold !== undefined ? "button" : "div", "box " + (box.kind || "part"));
    const title = make("span", "title", box.title);
    if (box.fold !== undefined) title.prepend(make("span", "fold", box.opened ? "▾ " : "▸ "));
    node.append(title);
    if (box.detail) node.append(make("span", "detail", box.detail));
    for (const chip of box.chips || []) node.append(make("span", "chip", chip));
    if (box.explanation) node.append(make("span", "explanation", box.explanation));
    if (box.fold !== undefined) {
      node.setAttribute("aria-expanded", box.opened ? "true" : "false");
      node.onclick = () => setTriggerValue("fold", box.fold);
    } else if (box.page) {
      node.onclick = () => setTriggerValue("open", box.page);
    }
    return node;
  };
  const draw = (boxes, frame) => {
    let into = frame;
    for (const box of [...boxes].reverse()) {
      if (box.kind === "add" && frame !== root) {
        into = make("div", "branch"); // the boxes between the shortcut's two ends
        frame.append(into);
      }
      if (box.flow) into.append(make("div", "flow", box.flow));
      if (box.inside) {
        const frame = make("div", "frame");
        frame.append(button(box));
        draw(box.inside, frame);
        into.append(frame);
      } else {
        into.append(button(box));
      }
    }
  };
  let root = parentElement.querySelector(".drawing");
  if (!root) {
    root = make("div", "drawing");
    parentElement.append(root);
  }
  const focused = [...root.querySelectorAll("button")].indexOf(parentElement.activeElement);
  root.replaceChildren();
  draw(data, root);
  if (focused >= 0) root.querySelectorAll("button")[focused]?.focus();
}

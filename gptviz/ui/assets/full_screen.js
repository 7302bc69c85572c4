// A chart in full screen keeps its title, and the controls that it depends on. Streamlit shows the chart alone: this
// adds a bar with the title above it, and a button that brings the row of controls before the chart to the top.
const CONTROLS = "[data-testid=stMain] [data-testid=stHorizontalBlock]:has(input, [role=radiogroup]):not(.st-key-heading)"

const all = selector => [...document.querySelectorAll(selector)]

const controlsOf = frame =>
    all(CONTROLS).filter(row => {
        const isBefore = row.compareDocumentPosition(frame) & Node.DOCUMENT_POSITION_FOLLOWING
        return isBefore && !row.contains(frame)
    }).pop()

const makeBar = frame => {
    const bar = document.createElement("div")
    bar.className = "full-screen-bar"
    const title = bar.appendChild(document.createElement("span"))
    const button = bar.appendChild(document.createElement("button"))
    button.className = "tool"
    button.textContent = "Controls"
    button.onclick = () => {
        const row = controlsOf(frame)
        const isShown = row?.classList.toggle("pinned")
        button.setAttribute("aria-expanded", String(Boolean(isShown)))
    }
    frame.prepend(bar)
    return title
}

const look = () => {
    const frame = all("[data-testid=stFullScreenFrame]").find(one => getComputedStyle(one).position === "fixed")
    for (const bar of all(".full-screen-bar")) if (bar.parentElement !== frame) bar.remove()
    if (!frame) return all(".pinned").forEach(row => row.classList.remove("pinned"))
    const title = frame.querySelector(".full-screen-bar span") || makeBar(frame)
    const told = frame.querySelector("[data-testid=stPlotlyChart]")?.getAttribute("aria-label") || ""
    const sentence = `${document.title.replace(" · gptviz", "")}: ${told}`
    if (title.textContent !== sentence) title.textContent = sentence
}

export default function () {
    clearInterval(window.gptvizFullScreen)  // left over from the previous run
    window.gptvizFullScreen = setInterval(look, 300)
}

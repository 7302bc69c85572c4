// A chart in full screen keeps its title, and the controls that it depends on. Streamlit shows the chart alone: this
// adds a bar with the title above it, and a button that brings the row of controls before the chart to the top. And
// Streamlit replaces a chart whose data change, which ends the full screen: the new chart is put there again.
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

const keyOf = frame => frame.closest("[class*=st-key-]").className.match(/st-key-\S+/)[0]

// The key of the chart in full screen, until the user leaves it.
const leave = event => {
    if (event.key === "Escape" || event.target.closest?.("[data-title='Close fullscreen']")) window.gptvizFull = null
}

const look = () => {
    const frame = all("[data-testid=stFullScreenFrame]").find(one => getComputedStyle(one).position === "fixed")
    for (const bar of all(".full-screen-bar")) if (bar.parentElement !== frame) bar.remove()
    if (!frame) {
        const again = window.gptvizFull && document.querySelector(`.${window.gptvizFull} [data-title=Fullscreen]`)
        if (again) return again.click()
        window.gptvizFull = null
        return all(".pinned").forEach(row => row.classList.remove("pinned"))
    }
    window.gptvizFull = keyOf(frame)
    const title = frame.querySelector(".full-screen-bar span") || makeBar(frame)
    const told = frame.querySelector("[data-testid=stPlotlyChart]")?.getAttribute("aria-label") || ""
    const sentence = `${document.title.replace(" · gptviz", "")}: ${told}`
    if (title.textContent !== sentence) title.textContent = sentence
}

export default function () {
    clearInterval(window.gptvizFullScreen)  // left over from the previous run
    window.gptvizFullScreen = setInterval(look, 100)
    if (window.gptvizLeave) return
    window.gptvizLeave = leave
    document.addEventListener("keydown", leave, true)
    document.addEventListener("click", leave, true)
}

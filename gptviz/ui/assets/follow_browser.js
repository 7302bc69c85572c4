// A switch between light and dark mode triggers a run: the server draws the charts, and learns the mode only in a new
// run.
//
// A restored connection triggers a run too. A server that was restarted, or that dropped a sleeping session, knows no
// fragments and would not respond to what the user does in one. The first run restores the page; a second run picks up
// what the user did during the first.
//
// In a text area, Enter would begin a new line, and a new line is a token. So Enter shows the text, as Ctrl+Enter does
// in Streamlit, and Shift+Enter begins a new line. While an input method is composing, Enter is left alone.
//
// The server makes charts and labels for the room that a page has, so it is told when that changes: a window that is
// resized, a tablet that is turned, a sidebar that opens. A cookie tells a new session.
//
// Streamlit adds a history entry for every change of the address, so Back would lead from setting to setting. Here only
// another page adds an entry: Back leads to the page before, which shows the settings as they are now.
const pushState = history.pushState
const pushOnlyPages = function (state, title, url) {
    const isSamePage = url && new URL(url, location).pathname === location.pathname
    return isSamePage ? this.replaceState(state, title, url) : pushState.call(this, state, title, url)
}

const query = selector => document.querySelector(selector)

const ONE_COLUMN = 55  // rem: a narrower page has its columns one below the other, see page.css

// The width and the height for a page, and 1 if it has one column, which the stylesheet learns here.
const room = () => {
    const page = query("[data-testid=stMainBlockContainer]")
    if (!page) return null
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize)
    const isNarrow = query("[data-testid=stMain]").clientWidth < ONE_COLUMN * rem
    document.documentElement.classList.toggle("narrow", isNarrow)
    const { paddingLeft, paddingRight } = getComputedStyle(page)
    const width = Math.floor(page.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight))
    return [width, innerHeight, Number(isNarrow)]
}

const fits = (now, drawn) => now[2] === Number(drawn[2]) && [0, 1].every(axis => Math.abs(now[axis] - drawn[axis]) <= 8)

// A change is told once it has lasted for two looks: a sidebar slides, and a window is dragged.
const tellRoom = (drawn, tell) => {
    const now = room()
    if (!now) return
    const word = now.join("x")
    const isNew = !fits(now, drawn)
    if (isNew && word === window.gptvizRoom && word !== window.gptvizTold) {
        document.cookie = `gptviz_window=${word}; path=/; SameSite=Strict`
        tell((window.gptvizTold = word) && now)
    }
    if (!isNew) window.gptvizTold = word
    window.gptvizRoom = word
}

const openSidebar = () => {
    query("[data-testid=stExpandSidebarButton]")?.click()
    setTimeout(() => query("[data-testid=stSidebar] textarea")?.focus(), 300)
}

const copyLink = async button => {
    const field = document.body.appendChild(document.createElement("textarea"))
    try {
        await navigator.clipboard.writeText(location.href)
    } catch {  // without HTTPS, a browser lends the clipboard only to the old command
        field.value = location.href
        field.select()
        document.execCommand("copy")
    }
    field.remove()
    button.textContent = "Copied"
    setTimeout(() => (button.textContent = "Copy link"), 2000)
}

// Says something to people who cannot see the page, and the description of a chart when it changes.
const announcer = () => {
    const place = document.body.appendChild(document.createElement("div"))
    place.className = "said"
    place.setAttribute("aria-live", "polite")
    return sentence => { if (place.textContent !== sentence) place.textContent = sentence }
}

const watchCharts = () => {
    const said = new WeakMap()
    new MutationObserver(changes => {
        for (const { target } of changes) {
            const now = target.getAttribute("aria-label")
            if (target.matches("[data-testid=stPlotlyChart]") && said.get(target) !== now) window.gptvizSay(now)
            said.set(target, now)
        }
    }).observe(document.body, { subtree: true, attributes: true, attributeFilter: ["aria-label"] })
}

export default function ({ data, setTriggerValue }) {
    const app = document.querySelector("[data-testid=stApp]")
    const look = () => {
        const [red, green, blue] = getComputedStyle(app).backgroundColor.match(/[0-9.]+/g).map(Number)
        const mode = red + green + blue < 384 ? "dark" : "light"
        if (mode === data.drawn) window.gptvizAsked = null
        else if (mode !== window.gptvizAsked) setTriggerValue("mode", (window.gptvizAsked = mode))
        tellRoom(data.window, room => setTriggerValue("window", room))
        const { testConnectionState: connection, testScriptState: script } = app.dataset
        if (connection !== "CONNECTED") window.gptvizAsks = 2
        else if (window.gptvizAsks && script === "notRunning") setTriggerValue("back", window.gptvizAsks--)
    }
    window.gptvizFits = () => fits(room() || data.window, data.window)  // tests wait for this
    clearInterval(window.gptvizLook)  // left over from the previous run
    window.gptvizLook = setInterval(look, 300)
    if (window.gptvizEnter) return
    history.pushState = pushOnlyPages
    window.gptvizSay = announcer()
    watchCharts()
    document.addEventListener("click", ({ target }) => {
        if (target.closest(".edit-text")) openSidebar()
        if (target.closest(".copy-link")) copyLink(target)
    })
    if (innerWidth < 1000) query("[data-testid=stSidebarCollapseButton] button")?.click()
    window.gptvizRoom = room()?.join("x")  // at the start nothing moves, so the first look counts
    look()
    window.gptvizEnter = event => {
        const isPlain = event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey
        if (!isPlain || event.isComposing || !event.target.matches?.("[data-testid=stTextArea] textarea")) return
        event.preventDefault()
        event.stopPropagation()
        event.target.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true, bubbles: true }))
    }
    document.addEventListener("keydown", window.gptvizEnter, true)
}

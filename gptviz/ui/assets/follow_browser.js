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
// Streamlit adds a history entry for every change of the address, so Back would lead from setting to setting. Here only
// another page adds an entry: Back leads to the page before, which shows the settings as they are now.
const pushState = history.pushState
const pushOnlyPages = function (state, title, url) {
    const isSamePage = url && new URL(url, location).pathname === location.pathname
    return isSamePage ? this.replaceState(state, title, url) : pushState.call(this, state, title, url)
}

export default function ({ data, setTriggerValue }) {
    const app = document.querySelector("[data-testid=stApp]")
    const look = () => {
        const [red, green, blue] = getComputedStyle(app).backgroundColor.match(/[0-9.]+/g).map(Number)
        const mode = red + green + blue < 384 ? "dark" : "light"
        if (mode === data.drawn) window.gptvizAsked = null
        else if (mode !== window.gptvizAsked) setTriggerValue("mode", (window.gptvizAsked = mode))
        const { testConnectionState: connection, testScriptState: script } = app.dataset
        if (connection !== "CONNECTED") window.gptvizAsks = 2
        else if (window.gptvizAsks && script === "notRunning") setTriggerValue("back", window.gptvizAsks--)
    }
    clearInterval(window.gptvizLook)  // left over from the previous run
    window.gptvizLook = setInterval(look, 300)
    if (window.gptvizEnter) return
    history.pushState = pushOnlyPages
    window.gptvizEnter = event => {
        const isPlain = event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey
        if (!isPlain || event.isComposing || !event.target.matches?.("[data-testid=stTextArea] textarea")) return
        event.preventDefault()
        event.stopPropagation()
        event.target.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", ctrlKey: true, bubbles: true }))
    }
    document.addEventListener("keydown", window.gptvizEnter, true)
}

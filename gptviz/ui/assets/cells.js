// What happens when the user chooses a cell of a chart, or a link between pages.
//
// A chart says in its layout's `meta` what its cells stand for (see `cells` in gptviz/charts/axes.py): tokens, heads or
// parts of the model. One listener per chart turns a click into a choice, however many cells there are. With the
// keyboard, the arrow keys move a cursor over the cells and Enter chooses. Heads open a menu with what can be done with
// them. Everything ends in `go`, which tells the server the page and the settings that were chosen.
const MENU = [
    ["See its attention", (layer, head) => ({ page: "attention", settings: { layer, head, view: "one" } })],
    ["Switch it off", (layer, head) => ({ page: "ablation", settings: { layer, head }, off: `L${layer}H${head}` })],
    ["Patch it", (layer, head) => ({ page: "patching", settings: { layer, head, patched: "z" } })],
    ["See its block", (layer, head) => ({ page: "block", settings: { layer, head } })],
]

let go  // tells the server; set anew in every run

const make = (tag, name, text) => {
    const node = document.createElement(tag)
    node.className = name
    if (text !== undefined) node.textContent = text
    return node
}

// --- the menu of a head ---------------------------------------------------------------------------------------------

const closeMenu = () => document.querySelector(".head-menu")?.remove()

const openMenu = (layer, head, x, y, returnTo) => {
    closeMenu()
    const menu = make("div", "head-menu")
    menu.setAttribute("role", "menu")
    menu.setAttribute("aria-label", `Head ${head} of layer ${layer}`)
    menu.append(make("div", "head-menu-title", `L${layer}H${head}`))
    for (const [label, target] of MENU) {
        const item = make("button", "head-menu-item", label)
        item.setAttribute("role", "menuitem")
        item.onclick = () => { closeMenu(); go(target(layer, head)) }
        menu.append(item)
    }
    menu.onkeydown = event => {
        const items = [...menu.querySelectorAll("button")]
        const at = items.indexOf(document.activeElement)
        const by = { ArrowDown: 1, ArrowUp: -1 }[event.key]
        if (by) items[(at + by + items.length) % items.length].focus()
        else if (event.key === "Escape" || event.key === "Tab") { closeMenu(); returnTo?.focus() }
        else return
        event.preventDefault()
        event.stopPropagation()
    }
    document.querySelector("[data-testid=stApp]").append(menu)
    const { width, height } = menu.getBoundingClientRect()
    menu.style.left = `${Math.max(8, Math.min(x, innerWidth - width - 8))}px`
    menu.style.top = `${Math.max(8, Math.min(y, innerHeight - height - 8))}px`
    menu.querySelector("button").focus()
}

// --- cells ----------------------------------------------------------------------------------------------------------

const meaning = plot => {
    const told = plot._fullLayout?.meta
    return told ? JSON.parse(told) : null
}

const cellOf = (cells, x, y) => [x, y].map((value, axis) => {
    const n = axis ? cells.down : cells.across
    return Math.min(Math.max(Math.floor((value + 0.5) / cells.step), 0), n - 1)
})

const choose = (plot, [across, down], x, y) => {
    const cells = meaning(plot)
    if (cells.click === "head") {
        if (across < cells.heads) openMenu(down, across, x, y, plot)
    } else if (cells.click === "part") go({ switch: cells.parts[down][across] })
    else go({ settings: { token: cells.first + (cells.click === "column" ? across : down) } })
}

const listen = plot => {
    plot.tabIndex = 0
    plot.on("plotly_click", ({ points: [point], event }) => {
        const cells = meaning(plot)
        if (cells && point) choose(plot, cellOf(cells, Number(point.x), Number(point.y)), event.clientX, event.clientY)
    })
    plot.addEventListener("keydown", event => moveCursor(plot, event))
    plot.addEventListener("blur", () => plot.querySelector(".cell-cursor")?.remove())
}

const moveCursor = (plot, event) => {
    const cells = meaning(plot)
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key]
    if (!cells || event.target !== plot || !(by || event.key === "Enter")) return
    event.preventDefault()
    const { xaxis, yaxis } = plot._fullLayout
    const upwards = yaxis.range[0] < yaxis.range[1]
    const [across, down] = plot.gptvizCell || [0, upwards ? cells.down - 1 : 0]
    const box = plot.getBoundingClientRect()
    const pixel = (column, row) => [
        box.left + xaxis._offset + xaxis.d2p(column * cells.step - 0.5),
        box.top + yaxis._offset + yaxis.d2p(row * cells.step + (upwards ? cells.step : 0) - 0.5),
    ]
    if (event.key === "Enter") return choose(plot, [across, down], ...pixel(across + 1, down))
    const step = plot.gptvizCell ? by : [0, 0]  // the first key shows the cursor
    const next = [across + step[0], down + (upwards ? -step[1] : step[1])]
    if (next[0] < 0 || next[1] < 0 || next[0] >= cells.across || next[1] >= cells.down) return
    plot.gptvizCell = next
    const cursor = plot.querySelector(".cell-cursor") || plot.appendChild(make("div", "cell-cursor"))
    const [left, top] = pixel(...next)
    const [right] = pixel(next[0] + 1, next[1])
    const bottom = pixel(next[0], next[1] + (upwards ? -1 : 1))[1]
    Object.assign(cursor.style, {
        left: `${left - box.left}px`, top: `${top - box.top}px`, width: `${right - left}px`, height: `${bottom - top}px`,
    })
    window.gptvizSay?.(spoken(plot, cells, next))
}

const spoken = (plot, cells, [across, down]) => {
    const name = (axis, number) => axis.ticktext?.[number] || axis.labelalias?.[number] || number
    const { xaxis, yaxis } = plot._fullLayout
    const value = plot._fullData[0].z?.[down]?.[across]
    const where = cells.click === "head" ? `layer ${down}, head ${across}` : `${name(yaxis, down)}, ${name(xaxis, across)}`
    return value === undefined || value === null ? where : `${where}: ${Number(value).toPrecision(3)}`
}

// --- links ----------------------------------------------------------------------------------------------------------

// A menu closes when the pointer goes down elsewhere. The click comes later: it may have opened the menu.
const pressed = event => {
    if (!event.target.closest(".head-menu")) closeMenu()
}

const clicked = event => {
    const link = event.target.closest("[data-go]")
    if (!link) return
    const [layer, head] = (link.dataset.head || "").split("-").map(Number)
    const { left, bottom } = link.getBoundingClientRect()
    if (link.dataset.head) openMenu(layer, head, left, bottom + 4, link)
    else go({ page: link.dataset.go, settings: Object.fromEntries(new URLSearchParams(link.dataset.settings)) })
}

export default function ({ setTriggerValue }) {
    go = target => setTriggerValue("go", target)
    clearInterval(window.gptvizCells)  // left over from the previous run
    window.gptvizCells = setInterval(() => {
        for (const plot of document.querySelectorAll(".js-plotly-plot:not([tabindex])")) if (meaning(plot)) listen(plot)
    }, 300)
    document.removeEventListener("click", window.gptvizClicked)
    document.removeEventListener("pointerdown", window.gptvizPressed)
    document.addEventListener("click", (window.gptvizClicked = clicked))
    document.addEventListener("pointerdown", (window.gptvizPressed = pressed))
}

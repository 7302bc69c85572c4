// What a page looks like on the screen, for tests/test_browser_screen.py: where every text lies, whether it is cut or
// covers another, and how large charts and their cells are. All lengths are in CSS pixels.
//
// A text is one line that a user sees in the page's main area: { text, where, quad, element, node, chart }. `quad` holds
// the four corners of its ink, and `chart` the Plotly chart that it stands in, if any. Left out are texts that only a
// hovering mouse brings, icons, texts for screen readers, and those of st.dataframe, which are painted on a canvas.
//
// A finding is { where, says }, with a sentence.
window.gptvizScreen = (() => {
    const TOLERANCE = 2
    const MOST = 4  // sentences about one place; the rest are counted
    const UNSEEN = "style, script, canvas, textarea, .hoverlayer, .modebar, [data-testid=stElementToolbar]"
    const ICONS = "Material Symbols"  // a font that draws words as icons
    const SHORTENED = ".edit-text"  // shows the beginning of the user's text, and says so with an ellipsis

    const main = () => document.querySelector("[data-testid=stMain]")
    const isShown = element => element.checkVisibility({ opacityProperty: true, visibilityProperty: true })
    const charts = () => [...main().querySelectorAll(".js-plotly-plot")].filter(isShown)
    const parentOf = node => node.parentElement || node.getRootNode().host
    const boxWords = ({ left, top, right, bottom }) => `[${[left, top, right, bottom].map(Math.round).join(" ")}]`
    const words = ({ text, quad }) => `“${text.slice(0, 40)}” ${boxWords(around(quad))}`

    function* upwards(element) {
        for (let node = element; node && node !== main(); node = parentOf(node)) yield node
    }

    // The nearest key that the page's code gave, or else the nearest of Streamlit's names.
    const nameOf = element => {
        const within = [...upwards(element)]
        const keys = within.flatMap(node => [...node.classList].filter(word => word.startsWith("st-key-")))
        return keys[0]?.replace("st-key-", "") ?? within.find(node => node.dataset.testid)?.dataset.testid ?? "the page"
    }

    const sentences = findings => Object.entries(Object.groupBy(findings, ({ where }) => where)).flatMap(([where, all]) => [
        ...all.slice(0, MOST).map(({ says }) => `${where}: ${says}`),
        ...(all.length > MOST ? [`${where}: and ${all.length - MOST} more like these`] : []),
    ])

    // --- shapes ------------------------------------------------------------------------------------------------

    const corners = ({ left, top, right, bottom }) => [[left, top], [right, top], [right, bottom], [left, bottom]]
    const around = quad => {
        const [xs, ys] = [quad.map(([x]) => x), quad.map(([, y]) => y)]
        return { left: Math.min(...xs), top: Math.min(...ys), right: Math.max(...xs), bottom: Math.max(...ys) }
    }
    const meet = (one, other) => ({
        left: Math.max(one.left, other.left), top: Math.max(one.top, other.top),
        right: Math.min(one.right, other.right), bottom: Math.min(one.bottom, other.bottom),
    })
    const isEmpty = ({ left, top, right, bottom }) => right - left < 1 || bottom - top < 1
    const isWithin = (inner, outer) => inner.left >= outer.left - TOLERANCE && inner.right <= outer.right + TOLERANCE
        && inner.top >= outer.top - TOLERANCE && inner.bottom <= outer.bottom + TOLERANCE

    // Two convex quads are apart if they are apart along the normal of one of their sides (separating axis theorem).
    const overlap = (one, other) => ![one, other].some(quad => quad.some(([x, y], at) => {
        const [nextX, nextY] = quad[(at + 1) % 4]
        const length = Math.hypot(nextX - x, nextY - y) || 1
        const along = ([px, py]) => (px * (y - nextY) + py * (nextX - x)) / length
        const [a, b] = [one.map(along), other.map(along)]
        return Math.max(...a) <= Math.min(...b) + 1 || Math.max(...b) <= Math.min(...a) + 1
    }))

    // An SVG element's box on the screen; a rotated label has a rotated box.
    const placed = (box, element) => {
        const matrix = element.getScreenCTM()
        return corners(box).map(([x, y]) => new DOMPoint(x, y).matrixTransform(matrix)).map(({ x, y }) => [x, y])
    }
    const svgBox = ({ x, y, width, height }) => ({ left: x, top: y, right: x + width, bottom: y + height })

    const innerBox = element => {
        const box = element.getBoundingClientRect()
        const [left, top] = [box.left + element.clientLeft, box.top + element.clientTop]
        return { left, top, right: left + element.clientWidth, bottom: top + element.clientHeight }
    }

    // --- texts -------------------------------------------------------------------------------------------------

    const pen = document.createElement("canvas").getContext("2d")

    // A text's measures in the element's font. The ink is lower than a line, so that lines and labels may stand close.
    const measured = (text, element) => {
        const { fontStyle, fontWeight, fontSize, fontFamily } = getComputedStyle(element)
        pen.font = `${fontStyle} ${fontWeight} ${fontSize} ${fontFamily}`
        return pen.measureText(text)
    }

    const isForReaders = element => {
        const { clipPath, clip, position } = getComputedStyle(element)
        return position === "absolute" && (clipPath.startsWith("inset(50%") || clip === "rect(0px, 0px, 0px, 0px)"
            || (element.offsetWidth <= 1 && element.offsetHeight <= 1))
    }

    function* textsIn(parent) {
        for (const child of (parent.shadowRoot || parent).childNodes) {
            if (child.nodeType === Node.TEXT_NODE) yield* linesOf(child)
            if (child.nodeType !== Node.ELEMENT_NODE || child.matches(UNSEEN) || !isShown(child)) continue
            if (child instanceof SVGTextElement) yield* labelsOf(child)
            else if (!isForReaders(child)) yield* textsIn(child)
        }
    }

    function* linesOf(node) {
        const [text, element] = [node.data.trim(), parentOf(node)]
        if (!text || getComputedStyle(element).fontFamily.includes(ICONS)) return
        const { fontBoundingBoxAscent, actualBoundingBoxAscent, actualBoundingBoxDescent } = measured(text, element)
        const range = document.createRange()
        range.selectNodeContents(node)
        for (const { left, top, right } of range.getClientRects()) {
            const base = top + fontBoundingBoxAscent
            const box = { left, right, top: base - actualBoundingBoxAscent, bottom: base + actualBoundingBoxDescent }
            if (!isEmpty(box)) yield { text, where: nameOf(element), quad: corners(box), element, node }
        }
    }

    function* labelsOf(element) {
        const lines = [...element.querySelectorAll("tspan.line")]
        for (const line of lines.length ? lines : [element]) {
            const text = line.textContent.trim()
            if (!text || !line.getNumberOfChars()) continue
            const { actualBoundingBoxAscent, actualBoundingBoxDescent } = measured(text, line)
            const [{ left, right }, base] = [svgBox(line.getBBox()), line.getStartPositionOfChar(0).y]
            const box = { left, right, top: base - actualBoundingBoxAscent, bottom: base + actualBoundingBoxDescent }
            if (isEmpty(box)) continue
            const chart = element.closest(".js-plotly-plot")
            yield { text, where: nameOf(element), quad: placed(box, element), element, node: element, chart }
        }
    }

    const texts = () => [...textsIn(main())]

    // --- cut texts ---------------------------------------------------------------------------------------------

    const hasEllipsis = node => getComputedStyle(node).textOverflow === "ellipsis" && node.scrollWidth > node.clientWidth + 1

    // The boxes out of which a text in HTML is not seen. What a user can scroll to is not cut.
    function* hidersOf(element) {
        let [scrollsX, scrollsY] = [false, false]
        for (const node of upwards(element)) {
            const { overflowX, overflowY, display } = getComputedStyle(node)
            if (display === "inline" || display === "contents") continue
            const { left, top, right, bottom } = innerBox(node)
            const [hidesX, hidesY] = [overflowX, overflowY].map(how => how === "hidden" || how === "clip")
            if (hidesX && !scrollsX) yield { left, right, top: -Infinity, bottom: Infinity, node }
            if (hidesY && !scrollsY) yield { left: -Infinity, right: Infinity, top, bottom, node }
            scrollsX ||= overflowX === "auto" || overflowX === "scroll"
            scrollsY ||= overflowY === "auto" || overflowY === "scroll"
        }
        if (!scrollsX) yield { ...innerBox(main()), top: -Infinity, bottom: Infinity, node: main() }
    }

    // The rectangles to which Plotly clips points and legends.
    function* clipsOf(element, chart) {
        for (let node = element; node !== chart; node = node.parentElement) {
            const id = node.getAttribute("clip-path")?.match(/#([^"')]+)/)?.[1]
            const rect = id && document.getElementById(id)?.querySelector("rect")
            if (rect) yield around(placed(svgBox(rect.getBBox()), node))
        }
    }

    // The box that cuts a text, if one does.
    const cutBy = ({ element, quad, chart }) => {
        const goesOut = box => !isWithin(around(quad), box)
        if (chart) return [chart.getBoundingClientRect(), ...clipsOf(element, chart)].find(goesOut)
        const cutting = [...hidersOf(element)].find(hider => goesOut(hider) || hasEllipsis(hider.node))
        return cutting && innerBox(cutting.node)
    }

    const cutTexts = seen => {
        const found = new Map()  // one finding for each text, however many lines it has
        for (const text of seen.filter(({ element }) => !element.closest(SHORTENED))) {
            const box = cutBy(text)
            if (box && !found.has(text.node))
                found.set(text.node, { where: text.where, says: `${words(text)} is cut to ${boxWords(box)}` })
        }
        return [...found.values()]
    }

    // Lists show the chosen option, and empty fields an example, in an `input`, which hides what does not fit.
    const cutFields = () => [...main().querySelectorAll("input")].filter(isShown).flatMap(input => {
        const text = input.role === "combobox" && input.value ? input.value : input.value ? "" : input.placeholder
        const { paddingLeft, paddingRight } = getComputedStyle(input)
        const room = input.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight)
        const needed = measured(text, input).width
        const says = `“${text}” needs ${Math.round(needed)} px and has ${Math.round(room)}`
        return needed > room + 1 ? [{ where: `field ${input.ariaLabel || nameOf(input)}`, says }] : []
    })

    // --- texts over texts --------------------------------------------------------------------------------------

    // The part of a text that is not hidden or scrolled away, if any. Behind an ellipsis, no part is sure.
    const seenPart = text => {
        if (text.chart) return [text]
        let box = around(text.quad)
        for (const node of upwards(text.element)) {
            const { overflowX, display } = getComputedStyle(node)
            if (overflowX === "visible" || display === "inline") continue
            if (hasEllipsis(node)) return []
            box = meet(box, innerBox(node))
        }
        return isEmpty(box) ? [] : [{ ...text, quad: corners(box) }]
    }

    const overlapping = seen => {
        const parts = seen.flatMap(seenPart).map(text => ({ ...text, box: around(text.quad) }))
        parts.sort((one, other) => one.box.top - other.box.top)
        return parts.flatMap((one, at) => {
            const after = parts.slice(at + 1)
            const end = after.findIndex(({ box }) => box.top >= one.box.bottom)
            return after.slice(0, end < 0 ? after.length : end)
                .filter(({ node, box, quad }) => node !== one.node && !isEmpty(meet(one.box, box)) && overlap(one.quad, quad))
                .map(other => ({ where: one.where, says: `${words(one)} and ${words(other)} overlap` }))
        })
    }

    const textFindings = () => {
        const seen = texts()
        return { cut: sentences([...cutTexts(seen), ...cutFields()]), overlapping: sentences(overlapping(seen)) }
    }

    // --- sizes -------------------------------------------------------------------------------------------------

    const sideways = () => [main(), document.documentElement]
        .filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)
        .map(({ scrollWidth, clientWidth }) => `the page is ${scrollWidth} px wide, and ${clientWidth} px fit`)

    // Maps in which both axes are the text's tokens: [chart, pixels of a cell across, pixels of a cell down].
    const meaning = ({ _fullLayout: { meta } }) => (meta ? JSON.parse(meta) : {})
    const cells = () => charts().filter(chart => {
        const { click, across, down } = meaning(chart)
        return click === "row" && across === down
    })
        .map(plot => {
            const pixels = ({ _length, range }) => _length / Math.abs(range[1] - range[0])
            return [nameOf(plot), pixels(plot._fullLayout.xaxis), pixels(plot._fullLayout.yaxis)]
        })

    // Chart -> [width, height].
    const sizes = () => Object.fromEntries(charts().map(plot => [nameOf(plot), [plot.clientWidth, plot.clientHeight]]))

    const fontSize = ({ element, chart }) => {
        const { a, b, c, d } = chart ? element.getScreenCTM() : new DOMMatrix()
        return parseFloat(getComputedStyle(element).fontSize) * Math.sqrt(Math.abs(a * d - b * c))
    }

    const smallTexts = least => sentences(texts().filter(({ chart, element }) => chart || element.closest("table"))
        .filter(text => fontSize(text) < least)
        .map(text => ({
            where: text.where, says: `${words(text)} has a font of ${fontSize(text).toFixed(1)} px, not ${least.toFixed(1)}`,
        })))

    // What is wrong if an element is not wholly in the part of the window that is not under Streamlit's bar.
    const outside = (name, element) => {
        const bar = document.querySelector("[data-testid=stHeader]").getBoundingClientRect()
        const seen = { left: 0, top: bar.bottom, right: innerWidth, bottom: innerHeight }
        const box = element.getBoundingClientRect()
        return isWithin(box, seen) ? [] : [`${name} ${boxWords(box)} is not within ${boxWords(seen)}`]
    }

    // --- the page as a whole -----------------------------------------------------------------------------------

    // Whether nothing moves, and every chart is as wide as its place.
    const isStill = () => document.fonts.status === "loaded"
        && document.getAnimations().every(({ effect }) => effect.getComputedTiming().iterations === Infinity)
        && charts().every(plot => Math.abs(plot._fullLayout.width - plot.parentElement.clientWidth) <= 1)

    // Lay out the whole page without the box in which it scrolls, as wide as before. Return the style
    // sheet that does it, to remove.
    const unroll = () => {
        const style = document.createElement("style")
        style.textContent = `
            html, body, #root, #root :has([data-testid=stMain]), [data-testid=stMain] {
                position: static !important; overflow: visible !important; height: auto !important;
            }
            [data-testid=stMain] {flex: none !important; width: ${main().clientWidth}px !important;}`
        document.head.append(style)
        return style
    }

    return { textFindings, sideways, cells, sizes, smallTexts, outside, isStill, unroll }
})()

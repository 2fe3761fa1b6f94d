"use strict";
// The browser of answer pairs. Whatever models wrote becomes text nodes, never HTML (the page's policy forbids it too).
(() => {
  const ROW = 52; // px, as in report.css
  const EQUAL = 0.1; // lengths that differ by less than this share of the longer count as equal
  const $ = (id) => document.getElementById(id);
  const pairs = JSON.parse($("pairs").textContent);
  const found = { places: pairs.map((_, place) => place), at: 0 };
  const texts = []; // lower-case text of each pair, made when it is first searched

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const unique = (values) => [...new Set(values)];
  const fill = (select, names, any) => {
    if (any) select.append(new Option(any, ""));
    names.forEach((name) => select.append(new Option(name, name)));
    select.closest("label").hidden = names.length < 2;
  };
  const judged = (pair) => pair.judges[$("judge").value];
  const verdict = (pair) => (judged(pair) ? judged(pair).verdict : "unscored");

  // --- filters ---

  const lengthClass = ({ mine, theirs }) => {
    if (Math.abs(mine.chars - theirs.chars) <= EQUAL * Math.max(mine.chars, theirs.chars)) return "equal";
    return mine.chars > theirs.chars ? "longer" : "shorter";
  };
  const textOf = (place) => {
    if (texts[place] === undefined) {
      const { id, prompt, mine, theirs, judges } = pairs[place];
      const reviews = Object.values(judges).flatMap((one) => one.reviews.map((review) => review[4]));
      texts[place] = [id, prompt, mine.text, theirs.text, ...reviews].join("\n").toLowerCase();
    }
    return texts[place];
  };
  const passes = (pair, place, query) => {
    const is = (id, value) => !$(id).value || $(id).value === value;
    return (
      is("set", pair.set) && is("baseline", pair.baseline) && is("verdict", verdict(pair)) &&
      is("length", lengthClass(pair)) && (!query || textOf(place).includes(query))
    );
  };
  const filter = () => {
    const chosen = found.places[found.at];
    const query = $("search").value.trim().toLowerCase();
    found.places = pairs.map((_, place) => place).filter((place) => passes(pairs[place], place, query));
    found.at = Math.max(0, found.places.indexOf(chosen));
    $("count").textContent = `${found.places.length.toLocaleString("en")} of ${pairs.length.toLocaleString("en")} pairs`;
    show(found.at);
  };

  // --- the list: only the rows in sight are in the document ---

  const drawList = () => {
    const list = $("list");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 3);
    const last = Math.min(found.places.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 3);
    $("rows").style.height = `${found.places.length * ROW}px`;
    $("rows").replaceChildren(...Array.from({ length: last - first }, (_, step) => makeRow(first + step)));
    const isDrawn = found.at >= first && found.at < last;
    isDrawn ? list.setAttribute("aria-activedescendant", `row-${found.at}`) : list.removeAttribute("aria-activedescendant");
  };
  const makeRow = (at) => {
    const pair = pairs[found.places[at]];
    const row = make("div", "row");
    const head = make("div");
    head.append(make("strong", verdict(pair), verdict(pair)), ` · ${pair.set}/${pair.id} · ${pair.mine.chars} : ${pair.theirs.chars}`);
    row.append(head, make("div", "quiet", pair.prompt.slice(0, 90).replace(/\s+/g, " ")));
    row.id = `row-${at}`;
    row.style.top = `${at * ROW}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(at === found.at));
    row.setAttribute("aria-posinset", String(at + 1));
    row.setAttribute("aria-setsize", String(found.places.length));
    row.addEventListener("click", () => show(at));
    return row;
  };

  // --- the chosen pair ---

  const show = (at) => {
    found.at = Math.min(Math.max(at, 0), Math.max(found.places.length - 1, 0));
    const list = $("list");
    const top = found.at * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    drawList();
    const pair = pairs[found.places[found.at]];
    $("detail").replaceChildren(...(pair ? makeDetail(pair) : [make("p", "quiet", "No pair passes these filters.")]));
  };
  const makeDetail = (pair) => {
    const sides = make("div", "two");
    sides.append(makeAnswer(pair.arm, pair.mine), makeAnswer(pair.baseline, pair.theirs));
    const reviews = Object.entries(pair.judges).map(([name, one]) => makeReviews(name, one, pair));
    return [make("h3", "", `${pair.set}/${pair.id}`), make("div", "text", pair.prompt), sides, ...reviews];
  };
  const makeAnswer = (arm, answer) => {
    const side = make("div");
    const tokens = answer.tokens === null ? "" : `, ${answer.tokens} tokens`;
    const cut = answer.finish === "length" ? ", cut at the limit" : "";
    side.append(make("strong", "", arm), make("span", "quiet", ` ${answer.chars} characters${tokens}${cut}`));
    side.append(make("div", "text", answer.text || "(empty)"));
    return side;
  };
  const makeReviews = (name, one, pair) => {
    const box = make("details");
    const summary = make("summary", "", `${name}: `);
    summary.append(make("strong", one.verdict, one.verdict));
    one.reviews.forEach(([order, status, mine, theirs]) => {
      const scores = status === "judged" ? `${mine} : ${theirs}` : status;
      summary.append(` · ${(order === "arm_first" ? pair.arm : pair.baseline) + " first"} ${scores}`);
    });
    box.append(summary);
    one.reviews.forEach((review) => box.append(make("div", "text", review[4] || "(no text)")));
    box.open = name === $("judge").value;
    return box;
  };

  // --- keyboard ---

  const moves = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  const onKey = (event) => {
    const { tagName } = event.target;
    const isTyping = tagName === "INPUT" || tagName === "SELECT";
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping && event.key !== "Escape") return;
    const isLetter = event.key === "j" || event.key === "k";
    if (event.key === "Escape" && isTyping) $("list").focus(); // the search stays, to walk through what it found
    else if (event.key === "/") $("search").focus();
    else if (event.key in moves && (isLetter || event.target === $("list"))) show(found.at + moves[event.key]);
    else return;
    event.preventDefault();
  };

  // --- paper: what is folded opens, and folds again ---

  const folded = [];
  const unfold = () => {
    folded.push(...document.querySelectorAll("details:not([open])"));
    folded.forEach((box) => (box.open = true));
  };
  const fold = () => folded.splice(0).forEach((box) => (box.open = false));

  const start = () => {
    document.body.classList.add("scripted");
    fill($("judge"), unique(pairs.flatMap((pair) => Object.keys(pair.judges))));
    fill($("baseline"), unique(pairs.map((pair) => pair.baseline)), "all");
    fill($("set"), unique(pairs.map((pair) => pair.set)), "all");
    ["judge", "baseline", "set", "verdict", "length", "search"].forEach((id) => $(id).addEventListener("input", filter));
    $("list").addEventListener("scroll", drawList, { passive: true });
    document.addEventListener("keydown", onKey);
    window.addEventListener("beforeprint", unfold);
    window.addEventListener("afterprint", fold);
    filter();
    performance.mark("pairs-ready");
  };
  start();
})();

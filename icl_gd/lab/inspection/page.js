// What is selected, and the page that is drawn from it.

const data = JSON.parse(byId("data").textContent);
const nOutputs = data.prompts[0].y_query.length;
const edited = data.sides.map(() => []); // of each model, the switches that are on, the oldest first
// What is selected. `other` is the model beside the member, -1 for none. Every key is the id of a control.
const state = {
  member: 0,
  other: -1,
  prompt: 0,
  layer: 0,
  head: 0,
  output: 0,
  ablation: "zero",
  shown: "pattern",
  query: data.tokens.length - 1,
  key: 0,
};

// --- the models that are shown ---

/** The member and the model beside it, with their colours. */
function shownSides() {
  const first = { side: data.sides[state.member], index: state.member, kind: "first" };
  if (state.other < 0 || state.other === state.member) return [first];
  return [first, { side: data.sides[state.other], index: state.other, kind: "second" }];
}

function ofPrompt(side) {
  return side.prompts[state.prompt];
}

/** What is shown of the selected layer and head; of a smaller model, of its last. */
function ofHead(side) {
  const layer = Math.min(state.layer, side.kinds.length - 1);
  const head = Math.min(state.head, side.n_heads - 1);
  const found = ofPrompt(side).layers[layer];
  const pattern = found.pattern[head];
  const isSame = found.scores === null; // scores equal the pattern
  const scores = isSame ? pattern : found.scores[head];
  return { layer, head, pattern, scores, isSame, values: found.values[head], byKey: found.by_key[head] };
}

/** The name of a token in a sentence. */
function label(token) {
  if (token.label === "q") return "query";
  return token.holds === "xy" ? `example ${token.label}` : token.label;
}

function heading({ side, kind }, more = "") {
  return element("h3", { class: kind }, side.name + more);
}

function headHeading(shown) {
  const { layer, head } = ofHead(shown.side);
  return heading(shown, `: layer ${layer}, head ${head} (${shown.side.kinds[layer]})`);
}

/** The loss of the selected prompt. */
function loss(prediction) {
  const target = data.prompts[state.prompt].y_query;
  if (prediction.some((value) => value === null)) return null;
  return prediction.reduce((sum, value, i) => sum + 0.5 * (value - target[i]) ** 2, 0);
}

function total(values) {
  return values.reduce((sum, value) => sum + value, 0);
}

/** Replaces the content of a box by one element for each model, and draws those that have a method `draw`. */
function fill(box, made) {
  box.replaceChildren(...shownSides().map(made));
  for (const each of box.children) each.draw?.();
}

// --- header and controls ---

function drawHeader() {
  byId("task").textContent = `${data.task}.`;
  fill(byId("models"), ({ side, kind }) =>
    element("p", { class: "quiet" }, element("strong", { class: kind }, side.name), ` \u2013 ${side.about}.`),
  );
}

function drawControls() {
  const named = data.sides.map((side, i) => [i, side.name]);
  const counted = (n) => range(n).map((i) => [i, String(i)]);
  const { kinds, n_heads: nHeads } = data.sides[state.member];
  const options = {
    member: named.filter(([i]) => data.sides[i].kind === "member"),
    other: [[-1, "nothing"], ...named.filter(([i]) => i !== state.member)],
    prompt: counted(data.prompts.length),
    layer: kinds.map((kind, i) => [i, `${i} (${kind})`]),
    head: counted(nHeads),
    output: counted(nOutputs),
  };
  for (const [name, each] of Object.entries(options)) setOptions(byId(name), each, state[name]);
  byId("output").parentElement.hidden = nOutputs === 1;
  for (const name of ["query", "key"]) {
    const text = label(data.tokens[state[name]]);
    byId(name).max = data.tokens.length - 1;
    byId(name).value = state[name];
    byId(name).setAttribute("aria-valuetext", text);
    byId(`${name}-name`).textContent = text;
  }
  byId("ablation").value = state.ablation;
  byId("shown").value = state.shown;
}

// --- what is selected ---

function draw(isRebuilt = true) {
  drawHeader();
  drawControls();
  drawPredictions();
  drawLens();
  if (isRebuilt) buildEdits();
  else drawEdits();
  drawThumbnails();
  drawPatterns();
  drawTokens();
  drawValues();
  drawShares();
}

/** Draws the page after a change of what is selected. */
function update(isRebuilt = false) {
  settle();
  draw(isRebuilt);
  remember();
}

/** Makes the selection one that exists. */
function settle() {
  const side = data.sides[state.member];
  if (state.other === state.member) state.other = -1;
  state.layer = Math.min(state.layer, side.kinds.length - 1);
  state.head = Math.min(state.head, side.n_heads - 1);
}

/** Writes the selection to the address of the page. */
function remember() {
  try {
    history.replaceState(null, "", `#${Object.entries(state).map((each) => each.join("=")).join("&")}`);
  } catch {
    // some browsers refuse it for local files
  }
}

/** Reads the selection from the address of the page; words that are not understood change nothing. */
function recall() {
  const words = { ablation: ["zero", "mean"], shown: ["pattern", "scores"] };
  const [nSides, nTokens] = [data.sides.length, data.tokens.length];
  const counts = { member: nSides, other: nSides, prompt: data.prompts.length, output: nOutputs };
  Object.assign(counts, { query: nTokens, key: nTokens, layer: Infinity, head: Infinity });
  for (const word of location.hash.slice(1).split("&")) {
    const [name, text] = word.split("=");
    const value = Number(text);
    if (words[name]?.includes(text)) state[name] = text;
    const least = name === "other" ? -1 : 0;
    if (name in counts && Number.isInteger(value) && value >= least && value < counts[name]) state[name] = value;
  }
  if (data.sides[state.member].kind !== "member") state.member = 0;
}

/** The model that is first shown beside the member: the construction with the lowest mean loss, or another member. */
function firstBeside() {
  const lossOf = (i) => data.sides[i].loss ?? Infinity;
  const built = range(data.sides.length).filter((i) => data.sides[i].kind === "construction");
  if (built.length) return built.reduce((best, i) => (lossOf(i) < lossOf(best) ? i : best));
  return data.sides.length > 1 ? 1 : -1;
}

function start() {
  state.other = firstBeside();
  recall();
  settle();
  for (const each of document.querySelectorAll(".n-losses")) each.textContent = data.n_losses.toLocaleString("en");
  for (const name of Object.keys(state)) {
    byId(name).addEventListener("input", () => {
      const { value } = byId(name);
      state[name] = typeof state[name] === "string" ? value : Number(value);
      update(name === "member" || name === "other");
    });
  }
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => {
    edited.forEach((units) => units.splice(0));
    drawEdits();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(false));
  let width = document.body.clientWidth;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    draw(false);
  }).observe(document.body);
  draw();
}

start();

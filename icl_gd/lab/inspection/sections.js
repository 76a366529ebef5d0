// The sections of the page. Each function draws one of them from what is selected.

// --- prediction ---

function drawPredictions() {
  const models = shownSides().map(({ side, kind }) => ({
    name: side.name,
    prediction: ofPrompt(side).prediction,
    mean: side.loss,
    error: side.error,
    kind,
  }));
  const learners = data.references.map(({ name, predictions, loss: mean, error }) => ({
    name,
    prediction: predictions[state.prompt],
    mean,
    error,
    kind: "",
  }));
  const known = [...models, ...learners];
  // A model that diverged has a full bar, and does not shrink the others.
  const most = Math.max(...known.map(({ mean }) => mean ?? 0).filter((mean) => mean < 10 * data.references[0].loss));
  const truth = data.prompts[state.prompt].y_query[state.output];
  const rows = known.map(({ name, prediction, mean, error, kind }) => {
    const cells = [numeric(number(prediction[state.output])), numeric(number(loss(prediction), 3))];
    cells.push(numeric(number(mean)));
    cells[2].append(element("span", { class: "error" }, ` \u00b1 ${number(error, 2)}`));
    const drawing = bar(Math.min(mean ?? most, most), 0, most, kind ? `--${kind}` : "--quiet");
    return tableRow(name, [...cells, drawing], false, kind);
  });
  rows.unshift(tableRow("True label y", [numeric(number(truth)), numeric(""), numeric(""), element("td")]));
  const columns = ["prediction \u0177", "loss", "mean loss"].map((text) => [text, "number"]);
  byId("predictions").replaceChildren(table([["", ""], ...columns, ["", ""]], rows));
}

function drawLens() {
  const sides = shownSides();
  const box = byId("lens");
  const curves = sides.map(({ side, kind }) => ({
    kind,
    values: ofPrompt(side).lens.map((row) => row[state.output]),
  }));
  const truth = data.prompts[state.prompt].y_query[state.output];
  const squares = data.references.at(-1).predictions[state.prompt][state.output];
  const isSame = squares !== null && Math.abs(squares - truth) <= 1e-3 * Math.abs(truth);
  const lines = [{ value: truth, dash: "7 4" }, ...(isSame ? [] : [{ value: squares, dash: "2 4" }])];
  const spoken = sides.map(
    ({ side }, i) => `${side.name}: ${curves[i].values.map((value) => number(value, 3)).join(", ")}`,
  );
  const about = `Prediction lens. True label ${number(truth, 3)}. ${spoken.join(". ")}.`;
  box.replaceChildren(curvePlot(Math.max(260, box.clientWidth || 400), sides[0].side.lens, curves, lines, about));
  const key = sides.map(({ side, kind }) =>
    element("span", { class: kind }, `${kind === "first" ? "\u25cf" : "\u25a1"} ${side.name}`),
  );
  key.push(element("span", {}, isSame ? "\u2013 \u2013 true label y = least squares" : "\u2013 \u2013 true label y"));
  if (!isSame) key.push(element("span", {}, "\u00b7\u00b7\u00b7 least squares"));
  byId("lens-key").replaceChildren(...key);
  drawLensNumbers(sides);
}

function drawLensNumbers(sides) {
  const longest = sides.map(({ side }) => side.lens).reduce((one, two) => (two.length > one.length ? two : one));
  const rows = longest.map((name, i) => {
    const cells = sides.flatMap(({ side }) => {
      const row = ofPrompt(side).lens[i];
      return row ? [numeric(number(row[state.output])), numeric(number(loss(row), 3))] : [numeric(""), numeric("")];
    });
    return tableRow(name, cells);
  });
  const columns = sides.flatMap(({ side, kind }) => [
    [side.name, `number ${kind}`],
    ["loss", "number"],
  ]);
  byId("lens-numbers").replaceChildren(table([["read out after", ""], ...columns], rows));
}

// --- edits: the tables are made anew only for other models, so that a switch keeps the focus ---

/** The index of a combination of switches among those that were computed. */
function indexOf(side, units) {
  const wanted = [...units].sort((one, two) => one - two).join();
  return side.combinations.findIndex((combination) => combination.join() === wanted);
}

function buildEdits() {
  fill(byId("edits"), (shown) => {
    const { side, index } = shown;
    const most = Math.max(...side.combinations.map((combination) => combination.length));
    const rows = side.units.map(({ label: name }, i) => {
      const box = element("input", { type: "checkbox", id: `edit-${index}-${i}` });
      box.checked = edited[index].includes(i);
      box.addEventListener("change", () => {
        edited[index] = edited[index].filter((each) => each !== i);
        if (box.checked) edited[index].push(i);
        if (edited[index].length > most) edited[index].shift();
        drawEdits();
      });
      const part = element("th", { scope: "row" }, element("label", { for: box.id }, name));
      return element("tr", {}, element("td", {}, box), part, numeric("", "alone"), numeric("", "ratio"), element("td"));
    });
    const head = ["mean loss", "ratio"].map((text) => [text, "number"]);
    const parts = table([["switch", ""], ["part", ""], ...head, ["", ""]], rows);
    const limit =
      most < side.units.length && `Only ${most} at a time: one more switch turns off the one that was turned on first.`;
    return element(
      "div",
      { class: "editing", "data-side": index },
      heading(shown),
      element("div", { class: "result", role: "status" }),
      scrolling(`Switches of ${side.name}`, parts, "wide tall"),
      limit ? element("p", { class: "about" }, limit) : null,
    );
  });
  drawEdits();
}

function drawEdits() {
  for (const panel of byId("edits").children) {
    const index = Number(panel.dataset.side);
    const side = data.sides[index];
    const { losses, predictions } = side.edits[state.ablation];
    const on = edited[index];
    const found = indexOf(side, on);
    const before = losses[0];
    const after = losses[found];
    const change = (one, two) => element("strong", {}, on.length ? `${one} \u2192 ${two}` : one);
    const ratio = (value) => (before && value !== null ? `\u00d7 ${number(value / before, 3)}` : "");
    const [unedited, now] = [predictions[0][state.prompt], predictions[found][state.prompt]];
    const ofOutput = (prediction) => number(prediction[state.output]);
    const truth = ofOutput(data.prompts[state.prompt].y_query);
    const mean = ["Mean loss ", change(number(before), number(after)), on.length ? ` (${ratio(after)})` : ""];
    const ofThis = [
      `Prompt ${state.prompt}: prediction `,
      change(ofOutput(unedited), ofOutput(now)),
      `, true label ${truth}, loss `,
      change(number(loss(unedited), 3), number(loss(now), 3)),
    ];
    const code = element("code", {}, on.length ? editCode(side, on) : "no edits");
    panel.querySelector(".result").replaceChildren(...[mean, ofThis, [code]].map((each) => element("p", {}, ...each)));

    const alone = side.units.map((_, i) => losses[indexOf(side, [i])]);
    const most = Math.max(before ?? 0, ...alone.map((value) => value ?? 0));
    panel.querySelectorAll("tbody tr").forEach((row, i) => {
      row.querySelector("input").checked = on.includes(i);
      row.querySelector(".alone").textContent = number(alone[i]);
      row.querySelector(".ratio").textContent = ratio(alone[i]);
      row.lastElementChild.replaceWith(bar(alone[i], 0, most, "--positive", before ?? 0));
    });
  }
}

/** The line of Python that makes the same edits. */
function editCode(side, on) {
  const sites = {};
  for (const i of [...on].sort((one, two) => one - two)) {
    const { site, layer, head } = side.units[i].code;
    (sites[`blocks.${layer}.${site}`] ??= []).push(head);
  }
  const changes = Object.entries(sites).map(([site, heads]) => {
    const values = state.ablation === "zero" ? [] : ["values"];
    if (heads[0] !== null) values.push(`head=${heads.length > 1 ? `(${heads.join(", ")})` : heads[0]}`);
    return `"${site}": edits.${state.ablation}(${values.join(", ")})`;
  });
  return `model.edit({${changes.join(", ")}})`;
}

// --- attention ---

function drawThumbnails() {
  const hasSeveral = ({ side }) => side.kinds.length * side.n_heads > 1;
  byId("overview").hidden = !shownSides().some(hasSeveral);
  fill(byId("thumbnails"), (shown) => {
    const { side } = shown;
    const columns = side.n_heads > 1 ? side.n_heads : side.kinds.length;
    const size = Math.min(5, 30 / columns);
    const buttons = ofPrompt(side).layers.flatMap(({ pattern }, layer) =>
      pattern.map((rows, head) => thumbnailButton(side, layer, head, rows)),
    );
    const style = `grid-template-columns: repeat(${columns}, minmax(0, ${size}rem))`;
    return element("div", {}, heading(shown), element("div", { class: "thumbnails", style }, ...buttons));
  });
}

function thumbnailButton(side, layer, head, rows) {
  const own = ofHead(side);
  const name = `${side.name}: layer ${layer}, head ${head}`;
  const canvas = element("canvas", { "aria-hidden": "true" });
  const pressed = String(layer === own.layer && head === own.head);
  const about = { type: "button", "aria-label": name, title: `layer ${layer}, head ${head}`, "aria-pressed": pressed };
  const button = element("button", about, canvas, element("span", {}, `L${layer} H${head}`));
  button.addEventListener("click", () => {
    Object.assign(state, { layer, head });
    update();
    // The buttons were made anew.
    [...byId("thumbnails").querySelectorAll("button")].find((each) => each.getAttribute("aria-label") === name).focus();
  });
  thumbnail(canvas, rows);
  return button;
}

function drawPatterns() {
  const labels = data.tokens.map((token) => token.label);
  const [from, to] = [state.query, state.key].map((i) => label(data.tokens[i]));
  const isPattern = state.shown === "pattern";
  const isUnnormalised = ({ side }) => ["linear", "relu"].includes(side.kinds[ofHead(side).layer]);
  byId("unnormalised").hidden = !shownSides().some(isUnnormalised);
  fill(byId("patterns"), (shown) => {
    const { layer, head, pattern, scores, isSame } = ofHead(shown.side);
    const rows = isPattern ? pattern : scores;
    const value = rows[state.query][state.key];
    const ordered = [...rows[state.query].entries()].sort((one, two) => Math.abs(two[1]) - Math.abs(one[1]));
    const largest = ordered.slice(0, 3).map(([j, each]) => `${label(data.tokens[j])} ${number(each, 3)}`);
    const spoken =
      `${isPattern ? "Attention pattern" : "Attention scores"}, ${labels.length} query positions by ${labels.length} ` +
      `key positions. Largest from ${from}: ${largest.join(", ")}. The sliders above choose a cell.`;
    const canvas = element("canvas", { role: "img", "aria-label": spoken });
    canvas.addEventListener("pointerdown", (event) => choose(canvas, event));
    canvas.addEventListener("pointermove", (event) => event.buttons && choose(canvas, event));
    const what = value === undefined ? "masked" : `${isPattern ? "weight" : "score"} ${number(value)}`;
    const readout = element("output", { class: "cell-value" }, `${from} to ${to}: ${what}.`);
    const note = !isPattern && isSame ? " The scores of linear attention are its weights." : "";
    const site = `attn.${state.shown}`;
    const code = `model.run(x, y, x_query)["${site}", ${layer}][${head}, ${state.query}, ${state.key}]`;
    const figure = element(
      "figure",
      {},
      headHeading(shown),
      canvas,
      legend(rows),
      element("p", { class: "readout" }, readout, note),
      element("figcaption", {}, element("code", {}, code)),
    );
    const mark = { row: state.query, column: state.key };
    figure.draw = () =>
      heatMap(canvas, rows, labels.length, labels, labels, ["query position", "key position"], mark);
    return figure;
  });
}

/** Selects the cell of a pattern that is under the pointer. */
function choose(canvas, event) {
  const [query, key] = canvas.place(event);
  const n = data.tokens.length;
  if (query < 0 || key < 0 || query >= n || key >= n || (query === state.query && key === state.key)) return;
  event.preventDefault();
  Object.assign(state, { query, key });
  const canvases = () => [...byId("patterns").querySelectorAll("canvas")];
  const place = canvases().indexOf(canvas);
  drawControls();
  drawPatterns();
  drawTokens();
  drawValues();
  remember();
  try {
    canvases()[place].setPointerCapture(event.pointerId); // the canvas was made anew while the pointer is down
  } catch {
    // the pointer is no longer down
  }
}

// --- tokens, values and shares ---

function drawTokens() {
  const prompt = data.prompts[state.prompt];
  const sides = shownSides();
  const colour = palette();
  const d = prompt.x_query.length;
  const heads = sides.map(({ side }) => ofHead(side));
  const weights = heads.map((head) => head.pattern[state.query]);
  const parts = heads.map((head) => head.byKey.map((row) => row[state.output]));
  const mostOf = { x: largestOf([...prompt.x, prompt.x_query]), weights: weights.map((row) => largestOf([row])) };
  mostOf.parts = largestOf(parts);
  const rows = data.tokens.map((token, i) => {
    const isQuery = token.example === prompt.x.length;
    const x = token.holds.includes("x") && (isQuery ? prompt.x_query : prompt.x[token.example]);
    const y = token.holds.includes("y") ? number(prompt.y[token.example][state.output], 3) : isQuery ? "?" : "";
    const ofSides = sides.flatMap((_, k) => [
      weights[k][i] === undefined ? numeric("masked") : coloured(weights[k][i], mostOf.weights[k], colour),
      coloured(parts[k][i], mostOf.parts, colour),
    ]);
    const coordinates = range(d).map((j) => (x ? coloured(x[j], mostOf.x, colour) : element("td")));
    return tableRow(label(token), [numeric(y), ...ofSides, ...coordinates], i === state.query && "chosen");
  });
  const sums = sides.flatMap((_, k) => [total(weights[k]), total(parts[k])]).map((sum) => numeric(number(sum, 3)));
  rows.push(tableRow("sum", [element("td"), ...sums, ...range(d).map(() => element("td"))], "total"));
  const ofSides = sides.flatMap(({ kind }) => ["weight", "part of \u0177"].map((text) => [text, `number ${kind}`]));
  const output = nOutputs > 1 ? ` (output ${state.output})` : "";
  const coordinates = range(d).map((i) => [String(i), "number"]);
  const head = [["token", ""], [`y${output}`, "number"], ...ofSides, ...coordinates];
  const groups = [["", "", 2], ...sides.map(({ side, kind }) => [side.name, kind, 2]), ["coordinates of x", "", d]];
  byId("tokens").replaceChildren(table(head, rows, groups));
}

function drawValues() {
  const labels = data.tokens.map((token) => token.label);
  const name = label(data.tokens[state.key]);
  fill(byId("values"), (shown) => {
    const { values, layer, head } = ofHead(shown.side);
    const width = values[0].length;
    const own = values[state.key];
    const norm = number(Math.sqrt(total(own.map((value) => value * value))));
    const first = own.slice(0, 12).map((value) => number(value, 2));
    const spoken =
      `Values, ${labels.length} tokens by ${width} dimensions. The value of ${name} has norm ${norm}: ` +
      `${first.join(", ")}${width > 12 ? ", ..." : ""}.`;
    const canvas = element("canvas", { role: "img", "aria-label": spoken });
    const code = `model.run(x, y, x_query)["attn.v", ${layer}][${state.key}, ${head}]`;
    const readout = element("p", { class: "readout" }, `Value of ${name}: norm ${norm}.`);
    const caption = element("figcaption", {}, element("code", {}, code));
    const figure = element("figure", {}, headHeading(shown), canvas, legend(values), readout, caption);
    const columns = range(width).map(String);
    figure.draw = () =>
      heatMap(canvas, values, width, labels, columns, ["token", "dimension of the head"], { row: state.key });
    return figure;
  });
}

function drawShares() {
  const sharesOf = (side) => ofPrompt(side).shares.map((row) => row[state.output]);
  const [least, most] = extent([[0], ...shownSides().map(({ side }) => sharesOf(side))]);
  fill(byId("shares"), (shown) => {
    const { side } = shown;
    const { layer, head } = ofHead(side);
    const rows = sharesOf(side).map((share, i) => {
      const isSelected = side.shares[i] === `layer ${layer}, head ${head}`;
      const drawing = bar(share, least, most, share < 0 ? "--negative" : "--positive");
      return tableRow(side.shares[i], [numeric(number(share)), drawing], isSelected && "current");
    });
    const sum = [numeric(number(total(sharesOf(side)))), element("td")];
    rows.push(tableRow("prediction", sum, "total"));
    const shares = table([["part", ""], ["share", "number"], ["", ""]], rows);
    return element("div", {}, heading(shown), scrolling(`Shares of the prediction of ${side.name}`, shares));
  });
}

// Heat maps, bars and curves. They know nothing of models.

const LEFT = 46; // pixels beside a heat map, for the labels of its rows
const TOP = 36; // pixels above it, for the labels of its columns
const FONT = "12px system-ui, sans-serif";

// --- colours ---

/** A colour of the style sheet, as red, green and blue from 0 to 255. */
function rgb(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return range(3).map((i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16));
}

/** The function from a value, and the largest absolute value, to its colour; zero has the colour of the page. */
function palette() {
  const back = rgb("--back");
  const positive = rgb("--positive");
  const negative = rgb("--negative");
  return (value, largest) => {
    const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) ** 0.6 : 0;
    const end = value < 0 ? negative : positive;
    return back.map((from, i) => Math.round(from + share * (end[i] - from)));
  };
}

function css(colour) {
  return `rgb(${colour.join(",")})`;
}

/** Black or white, whichever has the greater contrast as WCAG 2 defines it. */
function textOn(colour) {
  const [red, green, blue] = colour.map((part) => (part > 10 ? ((part / 255 + 0.055) / 1.055) ** 2.4 : part / 3294.6));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

/** The least and the largest value in rows of numbers; null stands for what is not finite. */
function extent(rows) {
  const values = rows.flat().filter((value) => value !== null);
  return values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [
    values[0] ?? 0,
    values[0] ?? 0,
  ]);
}

function largestOf(rows) {
  return Math.max(...extent(rows).map(Math.abs));
}

/** A cell of a table with a number on its colour. */
function coloured(value, largest, colour) {
  const paint = colour(value ?? 0, largest);
  const style = `background: ${css(paint)}; color: ${textOn(paint)}`;
  return element("td", { class: "cell", style }, number(value, 3));
}

// --- heat maps ---

/**
 * Draws rows of numbers on a canvas, which gets a method `place(event)`: the row and column under the pointer.
 * Rows may be shorter than `columns`; what is missing is hatched.
 * `axes` names rows and columns; `mark` has the row, and perhaps the column, that are framed.
 */
function heatMap(canvas, rows, columns, rowLabels, columnLabels, axes, mark) {
  const room = (canvas.parentElement.clientWidth || 300) - LEFT - 4;
  const isSquare = rows.length === columns;
  const tall = Math.max(9, 560 / rows.length);
  const across = Math.min(room / columns, 40, isSquare ? tall : 40); // the width of a cell
  const down = isSquare ? across : Math.min(28, tall); // its height
  const [width, height] = [across * columns, down * rows.length];
  const paint = sized(canvas, Math.ceil(LEFT + width + 4), Math.ceil(TOP + height + 4));
  const style = getComputedStyle(document.documentElement);
  const quiet = style.getPropertyValue("--quiet");
  const colour = palette();
  const largest = largestOf(rows);
  for (const [i, row] of rows.entries()) {
    for (let j = 0; j < columns; j++) {
      const [x, y] = [LEFT + j * across, TOP + i * down];
      if (row[j] === undefined || row[j] === null) {
        hatch(paint, x, y, across, down, quiet);
      } else {
        paint.fillStyle = css(colour(row[j], largest));
        paint.fillRect(x, y, across + 0.5, down + 0.5);
      }
    }
  }
  paint.strokeStyle = paint.fillStyle = quiet;
  paint.lineWidth = 0.5;
  paint.strokeRect(LEFT, TOP, width, height);
  labelAxes(paint, across, down, rowLabels, columnLabels, axes, mark.row);
  paint.strokeStyle = style.getPropertyValue("--text");
  paint.lineWidth = 1.5;
  paint.strokeRect(LEFT, TOP + mark.row * down, width, down);
  paint.lineWidth = 2.5;
  if (mark.column !== undefined) paint.strokeRect(LEFT + mark.column * across, TOP + mark.row * down, across, down);
  canvas.place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [Math.floor((event.clientY - box.top - TOP) / down), Math.floor((event.clientX - box.left - LEFT) / across)];
  };
}

/** Sets the size of a canvas in pixels of the page; returns its context, sharp on dense screens. */
function sized(canvas, width, height) {
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const paint = canvas.getContext("2d");
  paint.scale(density, density);
  return paint;
}

function hatch(paint, x, y, width, height, colour) {
  paint.strokeStyle = colour;
  paint.lineWidth = 1;
  paint.globalAlpha = 0.35;
  paint.beginPath();
  paint.moveTo(x, y + height);
  paint.lineTo(x + width, y);
  paint.stroke();
  paint.globalAlpha = 1;
}

/** Writes as many labels as fit, and that of the framed row. */
function labelAxes(paint, across, down, rowLabels, columnLabels, axes, framed) {
  const everyRow = Math.max(1, Math.ceil(14 / down));
  const everyColumn = Math.max(1, Math.ceil((9 * Math.max(...columnLabels.map((each) => each.length))) / across));
  paint.font = FONT;
  paint.textBaseline = "middle";
  paint.textAlign = "right";
  rowLabels.forEach((text, i) => {
    const isFree = i % everyRow === 0 && (everyRow === 1 || Math.abs(i - framed) >= everyRow);
    if (isFree || i === framed) paint.fillText(text, LEFT - 4, TOP + (i + 0.5) * down);
  });
  paint.textAlign = "center";
  columnLabels.forEach((text, j) => {
    if (j % everyColumn === 0) paint.fillText(text, LEFT + (j + 0.5) * across, TOP - 9);
  });
  paint.textAlign = "left";
  paint.fillText(`${axes[1]} \u2192`, LEFT, 8);
  paint.save();
  paint.translate(8, TOP);
  paint.rotate(-Math.PI / 2);
  paint.textAlign = "right";
  paint.fillText(`\u2190 ${axes[0]}`, 0, 0);
  paint.restore();
}

/** The colour scale of a heat map, from its least to its largest value. */
function legend(rows) {
  const [least, most] = extent(rows);
  const colour = palette();
  const stops = range(9).map((i) => css(colour(least + ((most - least) * i) / 8, largestOf(rows))));
  const scale = element("i", { style: `background: linear-gradient(to right, ${stops.join(", ")})` });
  return element("div", { class: "legend", "aria-hidden": "true" }, number(least, 3), scale, number(most, 3));
}

/** Draws a square matrix on a canvas, one pixel for each number. */
function thumbnail(canvas, rows) {
  const n = rows.length;
  const paint = canvas.getContext("2d");
  const colour = palette();
  const largest = largestOf(rows);
  canvas.width = canvas.height = n;
  const image = paint.createImageData(n, n);
  for (const i of range(n)) {
    for (const j of range(n)) image.data.set([...colour(rows[i][j] ?? 0, largest), 255], 4 * (i * n + j));
  }
  paint.putImageData(image, 0, 0);
}

// --- bars and curves ---

/** A cell of a table with a bar from zero to a value, on an axis from `least` to `most`, and a line at `line`. */
function bar(value, least, most, colour, line = 0) {
  const at = (each) => `${((each - least) / (most - least || 1)) * 100}%`;
  const [from, to] = [Math.min(0, value ?? 0), Math.max(0, value ?? 0)];
  const width = `${((to - from) / (most - least || 1)) * 100}%`;
  const filled = element("i", { style: `left: ${at(from)}; width: ${width}; background: var(${colour})` });
  const marked = element("b", { style: `left: ${at(line)}` });
  return element("td", { class: "bar", "aria-hidden": "true" }, element("div", {}, filled, marked));
}

/**
 * A drawing of curves over the same names.
 * `curves` have a `kind`, "first" or "second", and `values`; `lines` have a `value` and a `dash`.
 */
function curvePlot(width, names, curves, lines, spoken) {
  const [height, left, right, bottom, above] = [230, 58, 14, 34, 20];
  const known = [lines[0].value, ...curves.flatMap(({ values }) => values)].filter((value) => value !== null);
  const pad = 0.12 * (Math.max(...known) - Math.min(...known) || 1);
  const [least, most] = [Math.min(...known) - pad, Math.max(...known) + pad];
  // Curves with other numbers of points have the same ends.
  const x = (i, n) => left + ((width - left - right) * i) / Math.max(1, n - 1);
  const y = (value) => above + ((height - above - bottom) * (most - value)) / (most - least);
  const shapes = [];
  const stroke = "currentColor";
  const line = (x1, y1, x2, y2, more) => shapes.push(drawn("line", { x1, y1, x2, y2, stroke, ...more }));
  const text = (x, y, anchor, content) => shapes.push(drawn("text", { x, y, "text-anchor": anchor }, content));
  for (const { value, dash } of lines) {
    if (value === null || value < least || value > most) continue;
    line(left, y(value), width - right, y(value), { "stroke-dasharray": dash, "stroke-opacity": 0.7 });
  }
  line(left, above, left, height - bottom, { "stroke-opacity": 0.4 });
  text(left - 6, 12, "middle", "\u0177");
  for (const value of [least + pad, most - pad]) text(left - 8, y(value) + 4, "end", number(value, 3));
  const every = Math.ceil(names.length / Math.max(2, Math.floor((width - left) / 95)));
  names.forEach((name, i) => {
    const anchor = i === 0 ? "start" : i === names.length - 1 ? "end" : "middle";
    if (i % every === 0) text(x(i, names.length), height - bottom + 18, anchor, name);
  });
  for (const { kind, values } of curves) {
    const points = values.flatMap((value, i) => (value === null ? [] : [[x(i, values.length), y(value)]]));
    const own = { stroke: `var(--${kind})`, "stroke-width": 2 };
    const dash = kind === "first" ? "none" : "7 4";
    shapes.push(drawn("polyline", { points: points.join(" "), fill: "none", "stroke-dasharray": dash, ...own }));
    for (const [cx, cy] of points) {
      const square = { x: cx - 4, y: cy - 4, width: 8, height: 8, fill: "var(--back)", ...own };
      shapes.push(kind === "first" ? drawn("circle", { cx, cy, r: 4.5, fill: own.stroke }) : drawn("rect", square));
    }
  }
  return drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken }, ...shapes);
}

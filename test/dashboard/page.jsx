// Draws deployments/grafana/jobbridge.json with Grafana's own components: its
// panels, time series, stats, units and colours, and its grid. It is not
// Grafana itself: what @grafana/ui leaves out, the queries, the two variables
// and the defaults of the panels, is here, for what this dashboard uses. Any
// query that fails or finds nothing is an error, which draw sees in the console.
import { EventBusSrv, FieldConfigOptionsRegistry, FieldType, applyFieldOverrides, createDataFrame, createTheme, dateTime, getFieldDisplayValues, ThemeContext } from "@grafana/data";
import { BigValue, GlobalStyles, Icon, PanelChrome, PanelContextProvider, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";
import dashboard from "../../deployments/grafana/jobbridge.json";

const { prometheus, end, seconds, width } = window.run;
const theme = createTheme({ colors: { mode: "dark" } });
const cell = { height: 30, margin: 8 }; // of Grafana's grid
const step = 15; // the scrape interval: Grafana's least step, unless the data source says another
const last = Math.floor(end / step) * step;
const first = last - seconds;
const timeRange = { from: dateTime(first * 1000), to: dateTime(last * 1000) };
timeRange.raw = timeRange;

const variables = {
  instance: "bridge:8081|sidecar:8081", // all there are
  __rate_interval: `${4 * step}s`,
  __range: `${seconds}s`,
};

function substitute(expr) {
  return expr.replace(/\$(\w+)/g, (all, name) => {
    if (!(name in variables)) throw new Error(`${expr}: what is ${all}?`);
    return variables[name];
  });
}

async function query(target) {
  const expr = substitute(target.expr);
  const [path, params] = target.instant ? ["query", { time: last }] : ["query_range", { start: first, end: last, step }];
  const answer = await (await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams({ query: expr, ...params })}`)).json();
  if (answer.status !== "success") throw new Error(`${expr}: ${answer.error}`);
  if (answer.data.result.length === 0) throw new Error(`${expr}: nothing found`);
  return answer.data.result.map(({ metric, value, values = [value] }) =>
    createDataFrame({
      refId: target.refId,
      fields: [
        { name: "Time", type: FieldType.time, config: { interval: step * 1000 }, values: values.map(([t]) => t * 1000) },
        {
          name: "Value",
          type: FieldType.number,
          labels: metric,
          config: { displayNameFromDS: target.legendFormat.replace(/{{\s*(\w+)\s*}}/g, (_, label) => metric[label] ?? "") },
          values: values.map(([, v]) => (v === "NaN" ? null : Number(v))),
        },
      ],
    }),
  );
}

// What a time series has where the dashboard says nothing.
const custom = {
  drawStyle: "line", lineInterpolation: "linear", lineWidth: 1, fillOpacity: 0, gradientMode: "none", showPoints: "auto",
  pointSize: 5, spanNulls: false, stacking: { mode: "none", group: "A" }, axisPlacement: "auto", axisLabel: "", axisColorMode: "text", axisSoftMax: undefined,
  scaleDistribution: { type: "linear" }, hideFrom: { tooltip: false, viz: false, legend: false }, thresholdsStyle: { mode: "off" },
};
const option = (path, isCustom) => ({ id: isCustom ? `custom.${path}` : path, path, name: path, isCustom, process: (v) => v, shouldApply: () => true });
const registry = new FieldConfigOptionsRegistry(() => [
  ...["unit", "min", "max", "decimals", "displayName", "color", "thresholds", "mappings", "noValue"].map((path) => option(path, false)),
  ...Object.keys(custom).map((path) => option(path, true)),
]);

function configure(panel, frames) {
  const { defaults, overrides } = panel.fieldConfig;
  const color = { mode: panel.type === "stat" ? "thresholds" : "palette-classic" };
  const stacking = { ...custom.stacking, ...defaults.custom?.stacking };
  const thresholds = { mode: "absolute", steps: [{ value: -Infinity, color: "green" }, { value: 80, color: "red" }] };
  const all = { color, thresholds, ...defaults, custom: { ...custom, ...defaults.custom, stacking } };
  // JSON has null for the threshold below all others.
  all.thresholds = { ...all.thresholds, steps: all.thresholds.steps.map((s) => ({ ...s, value: s.value ?? -Infinity })) };
  return applyFieldOverrides({ data: frames, fieldConfig: { defaults: all, overrides }, fieldConfigRegistry: registry, replaceVariables: (s) => s, theme, timeZone: "utc" });
}

function Stat({ panel, frames, width, height }) {
  const { reduceOptions, colorMode, graphMode } = panel.options;
  const values = getFieldDisplayValues({ data: frames, fieldConfig: panel.fieldConfig, reduceOptions, replaceVariables: (s) => s, theme, timeZone: "utc" });
  if (values.length !== 1) throw new Error(`${panel.title}: ${values.length} values`);
  return <BigValue {...{ value: values[0].display, textMode: "auto", width, height, theme, colorMode, graphMode }} />;
}

function Panel({ panel, frames }) {
  const { x, y, w, h } = panel.gridPos;
  const column = (width - cell.margin) / 24;
  const box = { position: "absolute", left: cell.margin + x * column, top: cell.margin + y * (cell.height + cell.margin), width: w * column - cell.margin, height: h * (cell.height + cell.margin) - cell.margin };
  if (panel.type === "row") {
    return (
      <div style={{ ...box, ...theme.typography.h5, display: "flex", alignItems: "center", gap: 4 }}>
        <Icon name="angle-down" />
        {panel.title}
      </div>
    );
  }
  return (
    <div style={box}>
      <PanelChrome title={panel.title} description={panel.description} width={box.width} height={box.height}>
        {(width, height) =>
          panel.type === "stat" ? (
            <Stat {...{ panel, frames, width, height }} />
          ) : (
            <TimeSeries {...{ frames, width, height, timeRange, timeZone: "utc", legend: { showLegend: true, calcs: [], ...panel.options.legend } }} />
          )
        }
      </PanelChrome>
    </div>
  );
}

async function load(panel) {
  if (!["row", "stat", "timeseries"].includes(panel.type)) throw new Error(`${panel.title}: a ${panel.type} is not drawn yet`);
  return { panel, frames: panel.type === "row" ? [] : configure(panel, (await Promise.all(panel.targets.map(query))).flat()) };
}

const panels = await Promise.all(dashboard.panels.map(load));
const rows = Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => y + h));
createRoot(document.body.appendChild(document.createElement("div"))).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <PanelContextProvider value={{ eventsScope: "dashboard", eventBus: new EventBusSrv() }}>
      <div style={{ height: cell.margin + rows * (cell.height + cell.margin) }}>
        {panels.map((p) => <Panel key={p.panel.id} {...p} />)}
      </div>
    </PanelContextProvider>
  </ThemeContext.Provider>,
);

// A panel that could not be drawn leaves no canvas.
setTimeout(() => {
  const canvases = document.querySelectorAll("canvas").length;
  const expected = dashboard.panels.filter((p) => p.type === "timeseries").length;
  console.log(canvases === expected ? "drawn" : `${canvases} of ${expected} time series drawn`);
}, 5000);

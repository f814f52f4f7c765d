// The page of a replica. It reads JSON from api/ and writes text nodes only, never HTML, so that no name of an object
// can become part of the page. docs/reference/page.md describes the paths.
"use strict";

/** Milliseconds between updates of the view. A hidden tab is not updated. */
const UPDATE_INTERVAL = 3000;
/** Milliseconds without typing after which the filter applies. */
const TYPING_DELAY = 200;
/** Maximum number of edges that the drawing shows. The table has all. */
const MAX_DRAWN_EDGES = 60;

const STATES = {
  rejected: ["rejected", "bad"],
  notConnected: ["not connected here", "muted"],
  pending: ["pending", "wait"],
  synchronised: ["synchronised", "good"],
};
const ACTIONS = {
  Allow: ["allowed", "good"],
  Deny: ["denied", "bad"],
  AllowWithShadowDeny: ["allowed, counted as denied", "wait"],
};
/** Permissions apply only to services with an inbound in the mesh. */
const NOT_APPLICABLE = ["not applicable", "muted"];
const MTLS = {
  noMesh: "the Mesh does not exist",
  disabled: "mTLS is disabled, so permissions do not apply",
  permissive: "mTLS is permissive: permissions do not apply to plain text",
  strict: "mTLS is strict",
};

const byId = (id) => document.getElementById(id);

/** Creates an element. Attributes with the value undefined are left out. Children are nodes or texts. */
function element(name, attributes = {}, ...children) {
  const created = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined) created.setAttribute(key, value);
  }
  created.append(...children);
  return created;
}

function marked([text, className]) {
  return element("span", { class: className }, text);
}

/** Requests JSON. Throws an error with the server's text if the response is no success. */
async function request(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
  const response = await fetch(`api/${path}?${query}`, { signal: AbortSignal.timeout(10000) });
  if (!response.ok) throw new Error((await response.text()).trim() || `status ${response.status}`);
  return response.json();
}

/** Replaces the options of a select except for the first `kept`, and keeps the selection. */
function setOptions(select, values, kept) {
  const current = [...select.options].slice(kept).map((option) => option.value);
  if (current.length === values.length && current.every((value, index) => value === values[index])) return;
  const selected = select.value;
  while (select.options.length > kept) select.remove(kept);
  for (const value of values) select.append(element("option", { value }, value));
  if (values.includes(selected)) select.value = selected;
}

// ---- list of Dataplanes ----

const list = {
  revision: "",
  /** Filter and cursor that the rows belong to, as text. */
  key: "",
  rows: new Map(),
  elements: new Map(),
  /** Cursors of the pages before the shown one. */
  cursors: [],
  after: "",
  next: undefined,
};

function filter() {
  return Object.fromEntries(new FormData(byId("filter")));
}

async function updateList() {
  const parameters = { ...filter(), after: list.after };
  const key = JSON.stringify(parameters);
  const since = key === list.key ? list.revision : "";
  const answer = await request("dataplanes", { ...parameters, since });
  // The user may have changed the filter meanwhile.
  if (key !== JSON.stringify({ ...filter(), after: list.after })) return;
  if (!answer.isUpdate) list.rows.clear();
  for (const row of answer.rows) list.rows.set(`${row.namespace}/${row.name}`, row);
  const missing = answer.names.some((name) => !list.rows.has(name));
  // A row that moved into the page did not change, so the update lacks it: the next request asks for all rows.
  list.key = missing ? "" : key;
  list.revision = answer.revision;
  list.next = answer.next;
  showList(answer, new Set(answer.rows.map((row) => `${row.namespace}/${row.name}`)));
  if (missing && since) await updateList();
}

function showList(answer, changed) {
  const names = answer.names.filter((name) => list.rows.has(name));
  for (const name of [...list.rows.keys()]) if (!names.includes(name)) list.rows.delete(name);
  for (const [name, shown] of list.elements) {
    if (!list.rows.has(name)) {
      shown.remove();
      list.elements.delete(name);
    }
  }
  const body = document.querySelector("#dataplanes tbody");
  names.forEach((name, index) => {
    let shown = list.elements.get(name);
    if (!shown || changed.has(name)) {
      const created = listRow(name, list.rows.get(name));
      const hadFocus = shown?.contains(document.activeElement);
      if (shown) shown.replaceWith(created);
      list.elements.set(name, created);
      shown = created;
      if (hadFocus) shown.querySelector("a").focus();
    }
    if (body.children[index] !== shown) body.insertBefore(shown, body.children[index] ?? null);
  });
  const states = Object.entries(STATES).filter(([state]) => answer.states[state]);
  const counts = states.map(([state, [text]]) => `${answer.states[state]} ${text}`).join(", ");
  const text = `${answer.matching} of ${answer.total} Dataplanes` + (counts ? `: ${counts}` : "");
  // A screen reader reads the status only when it changes.
  if (byId("counts").textContent !== text) byId("counts").textContent = text;
  byId("previous").disabled = list.cursors.length === 0;
  byId("next").disabled = !list.next;
}

function listRow(name, row) {
  const link = element("a", { href: `#dataplane/${encodeURIComponent(name)}` }, name);
  const health = row.gateway
    ? "gateway"
    : element("span", { class: row.ready === row.inbounds ? undefined : "bad" }, `${row.ready} of ${row.inbounds}`);
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, link),
    element("td", {}, row.mesh),
    element("td", {}, row.services.join(", ")),
    element("td", {}, health),
    element("td", {}, marked(STATES[row.state])),
  );
}

function showPage(after, cursors) {
  list.after = after;
  list.cursors = cursors;
  return update();
}

function nextPage() {
  if (list.next) showPage(list.next, [...list.cursors, list.after]);
}

function previousPage() {
  if (list.cursors.length) showPage(list.cursors.at(-1), list.cursors.slice(0, -1));
}

// ---- one Dataplane ----

function definitions(pairs) {
  const shown = element("dl");
  for (const [term, value] of pairs) shown.append(element("dt", {}, term), element("dd", {}, value));
  return shown;
}

function tagText(tags) {
  return Object.entries(tags).map(([key, value]) => `${key}=${value}`).join(", ");
}

/** Text of the Dataplane that is shown. A view that did not change keeps its nodes, and so the focus and the selection. */
let shownDetail = "";

async function updateDataplane(name) {
  const detail = await request("dataplane", { name });
  const text = JSON.stringify(detail);
  if (text === shownDetail || currentView()[1] !== name) return;
  shownDetail = text;
  byId("title-dataplane").textContent = `Dataplane ${detail.name}`;
  const parts = [
    definitions([
      ["Mesh", `${detail.mesh} (${MTLS[detail.mtls]})`],
      ["Addresses", detail.addresses.join(", ")],
      ["Configuration", marked(STATES[detail.state])],
      ...(detail.gateway ? [["Gateway", tagText(detail.gateway)]] : []),
      ["Certificate", certificateText(detail.certificateNotAfter)],
      ["Reachable services", detail.reachableServices?.join(", ") ?? "all"],
      ...(detail.proxy ? proxyDefinitions(detail.proxy) : []),
    ]),
  ];
  const rejection = detail.proxy?.configuration.lastRejection;
  if (rejection) {
    parts.push(
      element("h3", {}, "Last rejection"),
      definitions([
        ["Time", rejection.time],
        ["Resources", `${rejection.kind}: ${rejection.resources.join(", ")}`],
      ]),
      element("pre", {}, rejection.message),
    );
  }
  for (const inbound of detail.inbounds) parts.push(...inboundParts(inbound));
  byId("dataplane").replaceChildren(...parts);
}

function certificateText(notAfter) {
  if (notAfter === undefined) return "this replica has issued none since its start";
  if (notAfter <= Date.now() / 1000) return `expired at ${timeText(notAfter)}`;
  return `expires ${timeText(notAfter)}, in ${remaining(notAfter)[0]}`;
}

function proxyDefinitions(proxy) {
  const { sent, acknowledged } = proxy.configuration;
  return [
    ["Replica", proxy.controlPlane ?? ""],
    ["Version sent", sent ?? "none"],
    ["Version acknowledged", acknowledged ?? "none"],
    ["kuma-dp, Envoy", `${proxy.version ?? "unknown"}, ${proxy.envoyVersion ?? "unknown"}`],
  ];
}

function inboundParts(inbound) {
  const health = inbound.ready ? ["ready", "good"] : ["not ready", "bad"];
  const rows = inbound.permissions.map((rule) =>
    element(
      "tr",
      {},
      element("td", {}, rule.service ?? "any service"),
      element("td", {}, tagText(rule.tags)),
      element("td", {}, marked(ACTIONS[rule.action])),
    ),
  );
  const head = ["Callers", "Tags of the callers", "Permission"].map((text) => element("th", { scope: "col" }, text));
  const note = inbound.omittedPermissions ? `${inbound.omittedPermissions} earlier rules are not shown. ` : "";
  return [
    element("h3", {}, `Inbound ${inbound.port}`),
    definitions([
      ["Health", marked(health)],
      ["Protocol", inbound.protocol],
      ["Tags", tagText(inbound.tags)],
    ]),
    element(
      "div",
      { class: "wide" },
      element(
        "table",
        {},
        element("caption", { class: "muted" }, `${note}Of several rules that match a caller, the last one decides.`),
        element("thead", {}, element("tr", {}, ...head)),
        element("tbody", {}, ...rows),
      ),
    ),
  ];
}

// ---- services ----

let shownGraph = "";

async function updateServices() {
  const mesh = byId("graph-mesh").value;
  if (!mesh) {
    byId("graph-note").textContent = "There is no mesh.";
    return;
  }
  const graph = await request("graph", { mesh });
  const filterText = byId("graph-text").value.toLowerCase();
  const key = JSON.stringify([graph, filterText]);
  if (key === shownGraph || mesh !== byId("graph-mesh").value) return;
  shownGraph = key;
  const matches = (...names) => names.some((name) => name.toLowerCase().includes(filterText));
  const edges = graph.edges.filter((edge) => matches(edge.from, edge.to));
  const services = graph.services.filter((service) => matches(service.name));
  const left = graph.truncated ? ` Only ${graph.services.length} of ${graph.totalServices} services and ${graph.edges.length} edges are read.` : "";
  byId("graph-note").textContent =
    `${services.length} services, ${edges.length} named callers; ${MTLS[graph.mtls]}. ` +
    `Dashed lines are callers that permissions or lists of reachable services name; requests are not measured.${left}`;
  byId("graph").replaceChildren(...(edges.length ? [drawing(edges.slice(0, MAX_DRAWN_EDGES), edges.length)] : []));
  document.querySelector("#edges tbody").replaceChildren(
    ...edges.map((edge) =>
      element(
        "tr",
        {},
        element("td", {}, edge.from),
        element("td", {}, edge.to),
        element("td", {}, marked(ACTIONS[edge.action] ?? NOT_APPLICABLE), edge.conditional ? " (depends on tags)" : ""),
        element("td", {}, edge.reachable ? "yes" : "no"),
      ),
    ),
  );
  document.querySelector("#services tbody").replaceChildren(
    ...services.map((service) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, service.name),
        element("td", {}, service.protocol),
        element("td", {}, element("span", { class: service.ready ? undefined : "bad" }, `${service.ready} of ${service.endpoints}`)),
        element("td", {}, marked(ACTIONS[service.others] ?? NOT_APPLICABLE), service.othersConditional ? " (depends on tags)" : ""),
      ),
    ),
  );
}

/** Draws callers on the left and called services on the right. The table has the same content for screen readers. */
function drawing(edges, count) {
  const namespace = "http://www.w3.org/2000/svg";
  const create = (name, attributes, text) => {
    const created = document.createElementNS(namespace, name);
    for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
    if (text !== undefined) created.textContent = text;
    return created;
  };
  const sides = [[...new Set(edges.map((edge) => edge.from))], [...new Set(edges.map((edge) => edge.to))]];
  const rowHeight = 22;
  const [width, left, right] = [760, 300, 460];
  const height = Math.max(sides[0].length, sides[1].length) * rowHeight + 10;
  const y = (side, name) => sides[side].indexOf(name) * rowHeight + 18;
  const drawn = create("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  const more = count > edges.length ? ` The first ${edges.length} of ${count} are drawn.` : "";
  drawn.append(create("title", {}, `Callers on the left, called services on the right.${more}`));
  for (const edge of edges) {
    const className = (ACTIONS[edge.action] ?? NOT_APPLICABLE)[1];
    drawn.append(create("line", { x1: left, y1: y(0, edge.from) - 4, x2: right, y2: y(1, edge.to) - 4, class: className }));
  }
  for (const name of sides[0]) drawn.append(create("text", { x: left - 8, y: y(0, name), "text-anchor": "end" }, name));
  for (const name of sides[1]) drawn.append(create("text", { x: right + 8, y: y(1, name) }, name));
  return drawn;
}

// ---- decisions and certificates ----

const DECISIONS = { injected: "good", skipped: "muted", denied: "bad" };

function timeText(seconds) {
  return new Date(seconds * 1000).toISOString().replace("T", " ").replace(".000Z", " UTC");
}

/** Text of the time until an expiry, with a class that marks one that is near or over. */
function remaining(seconds) {
  const hours = (seconds - Date.now() / 1000) / 3600;
  if (hours <= 0) return ["expired", "bad"];
  if (hours < 48) return [`${Math.floor(hours)} h`, hours < 1 ? "bad" : undefined];
  return [`${Math.floor(hours / 24)} days`, hours < 24 * 30 ? "wait" : undefined];
}

function replaceRows(table, rows) {
  const shown = rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell))));
  document.querySelector(`#${table} tbody`).replaceChildren(...shown);
}

/** Decisions and filter that are shown, as text. */
let shownDecisions = "";

async function updateDecisions() {
  const decisions = await request("decisions", {});
  const filterText = byId("decisions-text").value.toLowerCase();
  const key = JSON.stringify([decisions, filterText]);
  if (key === shownDecisions) return;
  shownDecisions = key;
  const matching = decisions.filter((decision) =>
    `${decision.namespace}/${decision.pod} ${decision.decision} ${decision.reason}`.toLowerCase().includes(filterText),
  );
  byId("decisions-note").textContent = `${matching.length} of ${decisions.length} decisions`;
  replaceRows(
    "decisions",
    matching.map((decision) => [
      timeText(decision.time),
      `${decision.namespace}/${decision.pod}`,
      marked([decision.decision, DECISIONS[decision.decision]]),
      decision.message ? `${decision.reason}: ${decision.message}` : decision.reason,
    ]),
  );
}

async function updateCertificates() {
  const certificates = await request("certificates", {});
  replaceRows(
    "certificates",
    certificates.map(({ subject, notAfter }) => [subject, timeText(notAfter), marked(remaining(notAfter))]),
  );
}

// ---- views, updates and keyboard ----

/** Returns the name of the view and its argument, from the fragment of the URL. */
function currentView() {
  const [view, argument = ""] = location.hash.slice(1).split("/", 2);
  const known = ["dataplanes", "dataplane", "services", "decisions", "certificates"];
  if (!known.includes(view)) return ["dataplanes", ""];
  try {
    return [view, decodeURIComponent(argument)];
  } catch {
    // The fragment is malformed, such as `#dataplane/%`.
    return ["dataplanes", ""];
  }
}

function showView() {
  const [view] = currentView();
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== `view-${view}`;
  for (const link of document.querySelectorAll("nav a")) {
    const isCurrent = view.startsWith(link.dataset.view.replace(/s$/, ""));
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "dataplane") {
    shownDetail = "";
    byId("dataplane").replaceChildren();
    byId("title-dataplane").textContent = `Dataplane ${currentView()[1]}`;
  }
}

async function updateOverview() {
  const overview = await request("overview", {});
  byId("replica").textContent = `replica ${overview.replica}, version ${overview.version}`;
  setOptions(byId("filter-mesh"), overview.meshes, 1);
  setOptions(byId("filter-namespace"), overview.namespaces, 1);
  setOptions(byId("graph-mesh"), overview.meshes, 0);
}

let timer;

/** Updates the view now, and again after the interval. */
async function update() {
  clearTimeout(timer);
  try {
    await updateOverview();
    const [view, argument] = currentView();
    if (view === "dataplane") await updateDataplane(argument);
    else if (view === "services") await updateServices();
    else if (view === "decisions") await updateDecisions();
    else if (view === "certificates") await updateCertificates();
    else await updateList();
    byId("problem").hidden = true;
  } catch (error) {
    byId("problem").textContent = `The page shows an earlier state: ${error.message}`;
    byId("problem").hidden = false;
  }
  document.body.dataset.updated = String(Number(document.body.dataset.updated ?? 0) + 1);
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(update, UPDATE_INTERVAL);
}

function focusRow(step) {
  const links = [...document.querySelectorAll("#dataplanes tbody a")];
  const current = links.indexOf(document.activeElement);
  const target = current < 0 ? 0 : Math.min(links.length - 1, Math.max(0, current + step));
  links[target]?.focus();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const [view] = currentView();
  const isField = event.target.matches("input, select");
  if (event.key === "Escape") {
    if (isField) {
      // Otherwise, the browser also clears a search field.
      event.preventDefault();
      event.target.blur();
    } else if (view === "dataplane") location.hash = "dataplanes";
    return;
  }
  if (isField) return;
  const actions = {
    "/": () => document.querySelector(`#view-${view} input[type=search]`)?.focus(),
    1: () => (location.hash = "dataplanes"),
    2: () => (location.hash = "services"),
    3: () => (location.hash = "decisions"),
    4: () => (location.hash = "certificates"),
    ...(view === "dataplanes" && { j: () => focusRow(1), k: () => focusRow(-1), n: nextPage, p: previousPage }),
  };
  const action = actions[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
}

let typing;

for (const form of document.forms) {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => showPage("", []), TYPING_DELAY);
  });
}
byId("next").addEventListener("click", nextPage);
byId("previous").addEventListener("click", previousPage);
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => !document.hidden && update());
window.addEventListener("hashchange", () => {
  showView();
  byId("main").focus({ preventScroll: true });
  scrollTo(0, 0);
  update();
});
showView();
update();

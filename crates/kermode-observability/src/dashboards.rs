//! Grafana dashboards. Each dashboard is a table of rows, panels and expressions; this module lays them out and renders
//! them as Grafana's JSON.

mod control_plane;
mod dataplane;
mod mesh;
mod service;

use serde_json::{Value, json};

/// All dashboards.
pub const DASHBOARDS: [&Dashboard; 4] = [
    &mesh::DASHBOARD,
    &control_plane::DASHBOARD,
    &dataplane::DASHBOARD,
    &service::DASHBOARD,
];

/// Grafana's variable for the window of rates. Its value depends on the zoom and on the scrape interval.
pub const GRAPH_WINDOW: &str = "$__rate_interval";

/// Version of Grafana's dashboard schema, that of Grafana 11. Later versions of Grafana convert it when they load a
/// dashboard.
const SCHEMA_VERSION: u32 = 39;
/// Width of a dashboard in Grafana's grid.
const COLUMNS: usize = 24;
/// Height of a panel in Grafana's grid.
const PANEL_HEIGHT: usize = 8;
/// Panels of a row that are side by side.
const PANELS_PER_LINE: usize = 3;

/// Dashboard.
#[derive(Clone, Copy, Debug)]
pub struct Dashboard {
    /// Identifier in URLs, and name of the file.
    pub uid: &'static str,
    /// Title.
    pub title: &'static str,
    /// Variables beside the data source.
    pub variables: &'static [Variable],
    /// Rows, from top to bottom.
    pub rows: &'static [Row],
}

/// Variable whose values are those of a label.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Name, which expressions use as `$name`.
    pub name: &'static str,
    /// Label of the selection.
    pub title: &'static str,
    /// Selector of the series with the label.
    pub series: &'static str,
    /// Label whose values can be selected.
    pub label: &'static str,
}

/// Row of panels with a title.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Title.
    pub title: &'static str,
    /// Panels, from left to right.
    pub panels: &'static [Panel],
}

/// Graph of one or more expressions over time.
#[derive(Clone, Copy, Debug)]
pub struct Panel {
    /// Title.
    pub title: &'static str,
    /// Explanation, which Grafana shows on request.
    pub description: &'static str,
    /// Unit of the values.
    pub unit: Unit,
    /// Expressions.
    pub targets: &'static [Target],
}

/// Expression of a panel.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Expression in PromQL, with variables of the dashboard.
    pub expr: &'static str,
    /// Name of each series in the legend, with labels as `{{label}}`.
    pub legend: &'static str,
}

/// Unit of the values of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number.
    Count,
    /// Number for each second.
    Rate,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
    /// Bytes for each second.
    ByteRate,
    /// Part of a whole, from 0 to 1.
    Fraction,
}

// === impl Unit ===

impl Unit {
    /// Returns Grafana's identifier of the unit.
    const fn id(self) -> &'static str {
        match self {
            Self::Count => "short",
            Self::Rate => "ops",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
            Self::ByteRate => "Bps",
            Self::Fraction => "percentunit",
        }
    }
}

// === impl Dashboard ===

impl Dashboard {
    /// Returns the expressions of all panels.
    pub fn targets(&self) -> impl Iterator<Item = &'static Target> {
        let panels = self.rows.iter().flat_map(|row| row.panels);
        panels.flat_map(|panel| panel.targets)
    }

    /// Renders the dashboard for Grafana's import and provisioning.
    pub fn json(&self) -> Value {
        json!({
            "uid": self.uid,
            "title": self.title,
            "tags": ["kermode"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "links": [{
                "title": "Kermode",
                "type": "dashboards",
                "tags": ["kermode"],
                "asDropdown": true,
                "includeVars": false,
                "keepTime": true,
                "targetBlank": false,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }],
            "templating": {"list": self.variables()},
            "annotations": {"list": []},
            "panels": self.panels(),
        })
    }

    fn variables(&self) -> Vec<Value> {
        let data_source = json!({
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
            "includeAll": false,
            "multi": false,
            "options": [],
            "regex": "",
        });
        let mut variables = vec![data_source];
        variables.extend(self.variables.iter().map(|variable| {
            let query = variable.query();
            json!({
                "name": variable.name,
                "label": variable.title,
                "type": "query",
                "datasource": data_source_reference(),
                "definition": query,
                "query": {"query": query, "refId": variable.name},
                "refresh": 2,
                "sort": 1,
                "hide": 0,
                "includeAll": true,
                "allValue": ".*",
                "multi": true,
                "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
                "options": [],
                "regex": "",
            })
        }));
        variables
    }

    fn panels(&self) -> Vec<Value> {
        let mut panels = Vec::new();
        let mut y = 0;
        for row in self.rows {
            let id = panels.len() + 1;
            panels.push(json!({
                "id": id,
                "type": "row",
                "title": row.title,
                "collapsed": false,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }));
            y += 1;
            let width = COLUMNS / row.panels.len().clamp(1, PANELS_PER_LINE);
            for (index, panel) in row.panels.iter().enumerate() {
                let line = index / PANELS_PER_LINE;
                let position = json!({
                    "x": index % PANELS_PER_LINE * width,
                    "y": y + line * PANEL_HEIGHT,
                    "w": width,
                    "h": PANEL_HEIGHT,
                });
                panels.push(panel.json(panels.len() + 1, position));
            }
            y += row.panels.len().div_ceil(PANELS_PER_LINE) * PANEL_HEIGHT;
        }
        panels
    }
}

// === impl Variable ===

impl Variable {
    /// Returns the query for the values.
    fn query(&self) -> String {
        format!("label_values({}, {})", self.series, self.label)
    }
}

// === impl Panel ===

impl Panel {
    fn json(&self, id: usize, position: Value) -> Value {
        let targets: Vec<Value> = self
            .targets
            .iter()
            .zip('A'..='Z')
            .map(|(target, name)| {
                json!({
                    "refId": name.to_string(),
                    "datasource": data_source_reference(),
                    "editorMode": "code",
                    "expr": target.expr,
                    "legendFormat": target.legend,
                    "range": true,
                })
            })
            .collect();
        json!({
            "id": id,
            "type": "timeseries",
            "title": self.title,
            "description": self.description,
            "datasource": data_source_reference(),
            "gridPos": position,
            "targets": targets,
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit.id(),
                    "min": 0,
                    "custom": {"drawStyle": "line", "fillOpacity": 10, "lineWidth": 1, "showPoints": "never"},
                },
                "overrides": [],
            },
            "options": {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
        })
    }
}

fn data_source_reference() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

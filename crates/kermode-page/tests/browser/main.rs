//! The page in a real headless Chromium (`make test-page`), with an example mesh of 5,000 Dataplanes on loopback.
//! Screenshots are written to `target/page`.

mod devtools;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kermode_page::example::Example;
use kermode_page::{guard, router};
use serde_json::Value;
use tokio::net::TcpListener;

use self::devtools::Browser;

/// Number of Dataplanes of the example mesh.
const DATAPLANES: usize = 5_000;
/// Views that need no argument, and one Dataplane that Envoy rejects.
const VIEWS: [&str; 5] = [
    "dataplanes",
    "services",
    "decisions",
    "certificates",
    "dataplane/team-00%2Fservice-000-3",
];
/// Condition that the view has been read at least once since it was opened.
const UPDATED: &str = "document.body.dataset.updated > 0";

/// The page and a browser that has opened it.
struct Fixture {
    example: Arc<Example>,
    port: u16,
    browser: Browser,
}

impl Fixture {
    async fn new() -> Result<Self> {
        let example = Example::new(DATAPLANES);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let page = guard::layer(router(example.sources()));
        tokio::spawn(async move { axum::serve(listener, page).await });
        let mut fixture = Self {
            example,
            port,
            browser: Browser::start("MAP rebound.example 127.0.0.1").await?,
        };
        fixture.browser.set_display(1200, "light").await?;
        fixture.browser.open(&fixture.url("")).await?;
        fixture.browser.wait_for(UPDATED).await?;
        Ok(fixture)
    }

    fn url(&self, fragment: &str) -> String {
        format!("http://localhost:{}/page/#{fragment}", self.port)
    }

    /// Shows a view and waits until it was updated.
    async fn show(&mut self, view: &str) -> Result<()> {
        let before = self
            .browser
            .evaluate("Number(document.body.dataset.updated)")
            .await?;
        self.browser.evaluate("location.hash = 'x'; 0").await?;
        self.browser
            .evaluate(&format!("location.hash = '{view}'; 0"))
            .await?;
        self.browser
            .wait_for(&format!(
                "document.body.dataset.updated > {before} && location.hash === '#{view}'"
            ))
            .await?;
        self.browser.wait_for("byId('problem').hidden").await
    }

    async fn text(&mut self, expression: &str) -> Result<String> {
        let value = self.browser.evaluate(expression).await?;
        value
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("{expression} is {value}"))
    }

    /// Fails if the browser has reported an error.
    fn check_errors(&self) -> Result<()> {
        ensure!(self.browser.errors.is_empty(), "{:#?}", self.browser.errors);
        Ok(())
    }
}

#[tokio::test]
async fn list_is_filtered_paged_and_opened_by_keyboard() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let browser = &mut fixture.browser;
    browser
        .wait_for("document.querySelectorAll('#dataplanes tbody tr').length === 50")
        .await?;
    browser
        .wait_for("byId('counts').textContent.startsWith('5000 of 5000 Dataplanes: 100 rejected')")
        .await?;
    browser.press("n").await?;
    browser
        .wait_for("document.querySelector('#dataplanes tbody a').textContent === 'team-00/service-005-0'")
        .await?;
    browser.press("p").await?;
    browser
        .wait_for("document.querySelector('#dataplanes tbody a').textContent === 'team-00/service-000-0'")
        .await?;
    browser.press("/").await?;
    browser.enter("SERVICE-123-").await?;
    browser
        .wait_for("byId('counts').textContent.startsWith('10 of 5000')")
        .await?;
    browser.press("Escape").await?;
    browser.press("j").await?;
    browser.press("j").await?;
    browser.press("Enter").await?;
    browser
        .wait_for("byId('title-dataplane').textContent === 'Dataplane team-12/service-123-1'")
        .await?;
    browser
        .wait_for("byId('dataplane').textContent.includes('service-122_team-12_svc_80')")
        .await?;
    browser.press("Escape").await?;
    browser
        .wait_for("!byId('view-dataplanes').hidden && byId('counts').textContent.startsWith('10 of')")
        .await?;
    fixture.check_errors()
}

#[tokio::test]
async fn update_replaces_only_the_row_that_changed() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let rows = "document.querySelectorAll('#dataplanes tbody tr')";
    fixture.browser.wait_for(&format!("{rows}.length === 50")).await?;
    fixture
        .browser
        .evaluate(&format!("{rows}.forEach((row) => (row.isOld = true)); 0"))
        .await?;
    fixture.example.set_ready(4, false);
    fixture
        .browser
        .wait_for(&format!("{rows}[4].textContent.includes('0 of 1')"))
        .await?;
    let new = format!("[...{rows}].flatMap((row, index) => (row.isOld ? [] : [index]))");
    assert_eq!(fixture.browser.evaluate(&new).await?, serde_json::json!([4]));
    fixture.check_errors()
}

#[tokio::test]
async fn message_of_envoy_is_shown_as_text() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    fixture.show("dataplane/team-00%2Fservice-000-3").await?;
    let message = fixture.text("document.querySelector('pre').textContent").await?;
    assert_eq!(message, "Error adding listener: <b>no such filter</b>");
    fixture.check_errors()
}

#[tokio::test]
async fn every_view_fits_in_400_pixels_in_light_and_dark() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    for scheme in ["light", "dark"] {
        for width in [400, 1200] {
            fixture.browser.set_display(width, scheme).await?;
            for view in VIEWS {
                fixture.show(view).await?;
                let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
                assert_eq!(
                    fixture.browser.evaluate(overflow).await?,
                    0,
                    "{view} at {width} pixels"
                );
                let name = view.split('/').next().unwrap_or_default();
                fixture
                    .browser
                    .screenshot(&format!("{name}-{width}-{scheme}"))
                    .await?;
            }
        }
    }
    fixture.check_errors()
}

/// JavaScript that returns the elements whose text has a contrast of less than 4.5 to 1 to the background, which is that
/// of the nearest ancestor with a background.
const LOW_CONTRAST: &str = r"(() => {
    const rgb = (text) => text.match(/[\d.]+/g).map(Number);
    const luminance = ([red, green, blue]) => [red, green, blue]
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const background = (element) => {
        const color = rgb(getComputedStyle(element).backgroundColor);
        return color[3] === 0 ? background(element.parentElement) : color;
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.body.querySelectorAll('*')]
        .filter((element) => hasText(element) && element.checkVisibility() && !element.closest('svg, :disabled'))
        .filter((element) => {
            const pair = [luminance(rgb(getComputedStyle(element).color)), luminance(background(element))].sort((a, b) => b - a);
            return (pair[0] + 0.05) / (pair[1] + 0.05) < 4.5;
        })
        .map((element) => element.outerHTML.slice(0, 200));
})()";

#[tokio::test]
async fn texts_have_enough_contrast_in_light_and_dark() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        fixture.browser.set_display(1200, scheme).await?;
        backgrounds.push(
            fixture
                .text("getComputedStyle(document.body).backgroundColor")
                .await?,
        );
        for view in VIEWS {
            fixture.show(view).await?;
            assert_eq!(
                fixture.browser.evaluate(LOW_CONTRAST).await?,
                serde_json::json!([]),
                "{view}, {scheme}"
            );
        }
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
    fixture.check_errors()
}

#[tokio::test]
async fn every_control_has_a_name_and_a_visible_focus() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    for view in VIEWS {
        fixture.show(view).await?;
        let tree = fixture
            .browser
            .call("Accessibility.getFullAXTree", serde_json::json!({}))
            .await?;
        let nodes = tree["nodes"].as_array().context("no nodes")?;
        let controls = [
            "link",
            "button",
            "combobox",
            "searchbox",
            "textbox",
            "table",
            "region",
        ];
        let is_control = |node: &&Value| {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            node["ignored"] != true && controls.contains(&role)
        };
        let controls: Vec<_> = nodes.iter().filter(is_control).collect();
        ensure!(controls.len() >= 5, "{view}: only {} controls", controls.len());
        for control in controls {
            // A table is named by the heading before it or by its caption.
            let is_named = control["name"]["value"]
                .as_str()
                .is_some_and(|name| !name.is_empty());
            ensure!(
                is_named || control["role"]["value"] == "table",
                "{view}: no name: {control}"
            );
        }
    }
    fixture.show("dataplanes").await?;
    fixture
        .browser
        .evaluate("document.querySelector('.skip').focus(); 0")
        .await?;
    let mut visited = Vec::new();
    for _ in 0..12 {
        fixture.browser.press("Tab").await?;
        let focused = "document.activeElement.id || document.activeElement.textContent";
        visited.push(fixture.text(focused).await?);
        let outline = fixture
            .text("getComputedStyle(document.activeElement).outlineStyle")
            .await?;
        assert_eq!(outline, "solid", "{visited:?}");
    }
    let position = |name: &str| visited.iter().position(|visited| visited == name);
    let order = [
        "Dataplanes",
        "Services",
        "filter-text",
        "filter-mesh",
        "filter-namespace",
        "filter-state",
    ];
    let positions: Option<Vec<_>> = order.iter().map(|name| position(name)).collect();
    ensure!(
        positions.is_some_and(|positions| positions.is_sorted()),
        "{visited:?}"
    );
    fixture.check_errors()
}

#[tokio::test]
async fn other_sites_cannot_read_the_page() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let data = "page/api/overview";
    let rebound = format!("http://rebound.example:{}/{data}", fixture.port);
    fixture.browser.open(&rebound).await?;
    let text = fixture.text("document.body.innerText").await?;
    assert!(text.contains("must be localhost"), "{text}");
    // A page of another origin on the same machine.
    let other = TcpListener::bind("127.0.0.1:0").await?;
    let other_url = format!("http://127.0.0.1:{}/", other.local_addr()?.port());
    let page = axum::Router::new().route("/", axum::routing::get(async || "other"));
    tokio::spawn(async move { axum::serve(other, page).await });
    fixture.browser.open(&other_url).await?;
    let read = format!(
        "fetch('http://localhost:{}/{data}').then((response) => response.text(), () => 'refused')",
        fixture.port
    );
    assert_eq!(fixture.text(&read).await?, "refused");
    Ok(())
}

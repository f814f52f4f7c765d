//! A headless Chromium, driven by the DevTools protocol over pipes (https://chromedevtools.github.io/devtools-protocol/).
//!
//! Chromium reads messages from descriptor 3 and writes messages to descriptor 4. Each message is JSON with a NUL at its end.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kermode_checkout::Checkout;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Time limit of a call, and of a condition that is awaited.
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two checks of a condition in the page.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Chromium with one tab. Dropping it ends Chromium.
pub(crate) struct Browser {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    next_id: u64,
    /// Session of the tab.
    session: Option<String>,
    /// Errors that the tab has reported: exceptions, refused resources, violations of the content security policy.
    pub(crate) errors: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts Chromium with an empty tab. `host_rules` maps names to addresses.
    pub(crate) async fn start(host_rules: &str) -> Result<Self> {
        let program = Checkout::find()?.tool("chromium")?;
        let profile = tempfile::tempdir()?;
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"])
            .arg(program)
            // Tests run as root, for whom Chromium refuses its sandbox. It shows only pages of this test.
            .args([
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-pipe",
                "--no-first-run",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--host-resolver-rules={host_rules}"))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("Chromium cannot be started")?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut browser = Self {
            _child: child,
            input,
            output,
            next_id: 0,
            session: None,
            errors: Vec::new(),
            _profile: profile,
        };
        let target = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach).await?;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in [
            "Page.enable",
            "Runtime.enable",
            "Log.enable",
            "Accessibility.enable",
        ] {
            browser.call(domain, json!({})).await?;
        }
        Ok(browser)
    }

    /// Calls a method and returns its result.
    pub(crate) async fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.next_id += 1;
        let id = self.next_id;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).await?;
        let response = timeout(TIME_LIMIT, self.response(id)).await;
        let mut response = response.with_context(|| format!("no response to {method}"))??;
        if let Some(error) = response.get("error") {
            bail!("{method}: {error}");
        }
        Ok(response["result"].take())
    }

    /// Reads messages up to the response with this id, and remembers reported errors.
    async fn response(&mut self, id: u64) -> Result<Value> {
        loop {
            let mut text = Vec::new();
            let length = self.output.read_until(0, &mut text).await?;
            ensure!(length > 0, "Chromium has ended");
            let message: Value = serde_json::from_slice(&text[..length - 1])?;
            if message["id"] == id {
                return Ok(message);
            }
            let parameters = &message["params"];
            match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => self.errors.push(parameters.to_string()),
                Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                    self.errors.push(parameters.to_string());
                }
                _ => {}
            }
        }
    }

    /// Evaluates a JavaScript expression in the tab and returns its value. Waits for a promise.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", parameters).await?;
        if let Some(exception) = result.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(result["result"]["value"].take())
    }

    /// Waits until a JavaScript expression is true.
    pub(crate) async fn wait_for(&mut self, expression: &str) -> Result<()> {
        let condition = async {
            while self.evaluate(&format!("Boolean({expression})")).await? != true {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
            anyhow::Ok(())
        };
        if let Ok(result) = timeout(TIME_LIMIT, condition).await {
            return result;
        }
        let text = self.evaluate("document.body.innerText").await?;
        bail!("{expression} did not become true; the page shows: {text}")
    }

    /// Opens a URL in the tab.
    pub(crate) async fn open(&mut self, url: &str) -> Result<()> {
        let result = self.call("Page.navigate", json!({"url": url})).await?;
        ensure!(result.get("errorText").is_none(), "{url}: {result}");
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
            .await
    }

    /// Presses and releases a key. Keys of one character enter it.
    pub(crate) async fn press(&mut self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            _ => 0,
        };
        let text = match key {
            "Enter" => "\r",
            _ if key.len() == 1 => key,
            _ => "",
        };
        let down = json!({"type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", down).await?;
        let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up).await?;
        Ok(())
    }

    /// Enters a text in the element with the focus.
    pub(crate) async fn enter(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({"text": text}))
            .await
            .map(drop)
    }

    /// Sets the width of the tab in pixels, and the colour scheme, `light` or `dark`.
    pub(crate) async fn set_display(&mut self, width: u32, scheme: &str) -> Result<()> {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await?;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).await?;
        Ok(())
    }

    /// Writes a screenshot to `target/page/NAME.png`.
    pub(crate) async fn screenshot(&mut self, name: &str) -> Result<()> {
        use base64::Engine as _;
        let folder = Checkout::find()?.target.join("page");
        std::fs::create_dir_all(&folder)?;
        let shot = self
            .call("Page.captureScreenshot", json!({"format": "png"}))
            .await?;
        let data = shot["data"].as_str().context("no screenshot")?;
        let image = base64::engine::general_purpose::STANDARD.decode(data)?;
        std::fs::write(folder.join(format!("{name}.png")), image)?;
        Ok(())
    }
}

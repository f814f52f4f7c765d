//! Export of traces to an OpenTelemetry collector (OTLP over gRPC).
//!
//! Spans of Kermode's crates and of the Kubernetes client are exported, from level debug upwards. Spans cost nothing
//! while the export is off. Spans that the collector does not accept in time are dropped, so a slow collector delays
//! nothing.

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::registry::LookupSpan;

/// Time limit of the export of one batch, and of the remaining spans at shutdown.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Prefixes of the targets whose spans are exported.
const EXPORTED_TARGET_PREFIXES: [&str; 4] = ["kuma_", "kermode_", "kube_client", "kube_runtime"];

/// Settings of the export.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// URL of the collector, such as `http://otel-collector.observability:4317`.
    pub endpoint: String,
    /// Name of the program, `service.name` of its spans.
    pub service: &'static str,
    /// Name of this replica, `service.instance.id`.
    pub instance: String,
    /// Fraction of traces that are exported, from 0 to 1.
    pub sampling_ratio: f64,
}

/// Error of an exporter that cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent to {endpoint:?}: {cause}; set the URL of an OTLP collector over gRPC")]
pub struct ExporterError {
    endpoint: String,
    cause: String,
}

/// Exporter of traces. Dropping it exports the remaining spans.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    service: &'static str,
}

impl Traces {
    /// Starts the export. Must be called in the context of a Tokio runtime. The collector does not have to be reachable
    /// yet.
    ///
    /// # Errors
    /// Fails if the endpoint is not a URL.
    pub fn start(settings: Settings) -> Result<Self, ExporterError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&settings.endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|cause| ExporterError {
                endpoint: settings.endpoint,
                cause: cause.to_string(),
            })?;
        let resource = Resource::builder()
            .with_service_name(settings.service)
            .with_attribute(opentelemetry::KeyValue::new(
                "service.instance.id",
                settings.instance,
            ))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sampling_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        Ok(Self {
            provider,
            service: settings.service,
        })
    }

    /// Returns the layer that exports the spans of a subscriber.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let is_exported = |metadata: &Metadata<'_>| {
            metadata.is_span()
                && EXPORTED_TARGET_PREFIXES
                    .iter()
                    .any(|prefix| metadata.target().starts_with(prefix))
        };
        let filter = FilterFn::new(is_exported).with_max_level_hint(LevelFilter::DEBUG);
        let tracer = self.provider.tracer(self.service);
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_filter(filter)
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::debug!("the last spans were not exported: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::http::{StatusCode, Uri};
    use tokio::sync::mpsc;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Starts a collector that passes the path and the body of each request to the channel. Returns its URL.
    async fn start_collector(exports: mpsc::UnboundedSender<(String, Vec<u8>)>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let handler = async move |uri: Uri, body: Bytes| {
            let _ = exports.send((uri.path().to_owned(), body.to_vec()));
            let headers = [("content-type", "application/grpc"), ("grpc-status", "0")];
            (StatusCode::OK, headers)
        };
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
        endpoint
    }

    fn contains(body: &[u8], text: &str) -> bool {
        body.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_of_kermode_reach_the_collector_and_other_spans_do_not() {
        let (exports, mut exported) = mpsc::unbounded_channel();
        let traces = Traces::start(Settings {
            endpoint: start_collector(exports).await,
            service: "kuma-test",
            instance: "replica-1".to_owned(),
            sampling_ratio: 1.0,
        })
        .expect("an exporter");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(traces.layer()), || {
            tracing::debug_span!("publish", touched = 3).in_scope(|| ());
            tracing::debug_span!(target: "h2", "foreign").in_scope(|| ());
        });
        tokio::task::spawn_blocking(|| drop(traces))
            .await
            .expect("no panic");
        let (path, body) = exported.recv().await.expect("an export");
        assert_eq!(
            path,
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        );
        for text in ["publish", "touched", "kuma-test", "replica-1"] {
            assert!(contains(&body, text), "{text}");
        }
        assert!(!contains(&body, "foreign"));
    }

    #[tokio::test]
    async fn error_names_an_endpoint_that_is_not_a_url() {
        let settings = Settings {
            endpoint: "not a url".to_owned(),
            service: "kuma-test",
            instance: String::new(),
            sampling_ratio: 1.0,
        };
        let error = Traces::start(settings)
            .expect_err("the endpoint is not a URL")
            .to_string();
        assert!(error.contains("not a url"), "{error}");
    }
}

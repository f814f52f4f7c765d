//! Access to a cluster for the commands that read from one: a client from the user's kubeconfig, reads of objects as
//! JSON, and errors that name the cluster, the request and the remedy.
//!
//! The commands read with the rights of the user. An error about a missing permission names the verb, the resource and
//! the namespace.

mod error;
mod forward;
mod probe;
mod resource;
#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use kermode_k8s::controller::client;
use kermode_manifests::documents::with_kind_from_list;
use kermode_model::{KubernetesVersion, duration, percent_encode};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

pub(crate) use error::ClusterError;
use error::Request;
pub(crate) use forward::{PodHttp, PodPort};
pub(crate) use probe::ServerTime;
pub(crate) use resource::Resource;

/// Number of objects that a list request returns at most. The API server keeps the rest for the next request.
const PAGE_SIZE: u32 = 500;
/// Maximum number of requests for one list, which bounds the loop if the API server always returns a next page.
const MAX_PAGES: usize = 1000;

/// Media type of objects.
const JSON: &str = "application/json";
/// Media type of a table with the printer columns of the resource.
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Ids of the flags of [`ClusterArgs`]. A command that can also read from files refuses them together with files, instead
/// of ignoring them.
pub(crate) const CLUSTER_FLAGS: [&str; 3] = ["kubeconfig", "context", "request_timeout"];

/// Flags that select the cluster.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Kubeconfig file. By default, the files that the variable KUBECONFIG names, else ~/.kube/config, else the service
    /// account of the Pod in which the command runs.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig. By default, its current context.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// Time limit of each request to the API server.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    request_timeout: Duration,
}

/// A cluster, accessed with the rights of the user.
#[derive(Clone)]
pub(crate) struct ClusterClient {
    client: Client,
    /// URL of the API server and name of the context, for messages.
    name: String,
    timeout: Duration,
}

/// Objects that a list request selects.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Selection<'a> {
    /// Namespace; `None` for all namespaces, and for cluster-scoped objects.
    pub(crate) namespace: Option<&'a str>,
    /// Label selector; all objects if empty.
    pub(crate) labels: &'a str,
    /// Field selector; all objects if empty.
    pub(crate) fields: &'a str,
}

/// A kind of the API group of the mesh that the API server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedKind {
    api_version: String,
    pub(crate) kind: String,
    plural: String,
}

/// A table of objects, as the API server prints it.
#[derive(Debug, Default)]
pub(crate) struct ServerTable {
    /// Columns, with `name` and `priority`. Columns with a priority above zero belong to the wide format.
    pub(crate) columns: Vec<Value>,
    /// Rows, with `cells`, and `object` with the metadata of the object.
    pub(crate) rows: Vec<Value>,
}

/// Runs a command that accesses a cluster to its end.
pub(crate) fn run<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .context("the asynchronous runtime cannot be started")?
        .block_on(command)
}

/// Takes a list out of an object.
fn take_list(object: &mut Value, key: &str) -> Vec<Value> {
    object[key].as_array_mut().map(std::mem::take).unwrap_or_default()
}

/// Parses a duration above zero.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = duration::parse(text).map_err(|error| error.to_string())?;
    if parsed.is_zero() {
        return Err("use a duration above zero, such as 10s".to_owned());
    }
    Ok(parsed)
}

// === impl ClusterClient ===

impl ClusterClient {
    /// Builds a client for the cluster that the flags select. Contacts the cluster only if the kubeconfig asks for it, for
    /// example by a command that returns a token.
    pub(crate) async fn connect(args: &ClusterArgs) -> Result<Self, ClusterError> {
        let options = KubeConfigOptions {
            context: args.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &args.kubeconfig {
            Some(file) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
            None => match Config::from_kubeconfig(&options).await {
                Ok(config) => config,
                // The first error is about the file that the user may have expected to be used.
                Err(error) if args.context.is_none() && std::env::var_os("KUBECONFIG").is_none() => {
                    Config::incluster().map_err(|_| error)?
                }
                Err(error) => return Err(error.into()),
            },
        };
        let context = args.context.as_deref();
        let context = context
            .map(|context| format!(" (context {context})"))
            .unwrap_or_default();
        let name = format!("{}{context}", config.cluster_url);
        let client = client::build(config).map_err(|source| ClusterError::Client {
            cluster: name.clone(),
            source,
        })?;
        Ok(Self {
            client,
            name,
            timeout: args.request_timeout,
        })
    }

    /// Returns the namespace of the context.
    pub(crate) fn default_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Reads an object. Returns `None` if it does not exist.
    pub(crate) async fn get_opt(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, ClusterError> {
        match self.get(resource, namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(ClusterError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads an object that must exist.
    pub(crate) async fn get(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Value, ClusterError> {
        let request = Request {
            verb: "get",
            resource: resource.full_name(),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
        };
        let path = format!("{}/{}", resource.path(namespace), percent_encode(name));
        self.read(&request, &path, JSON).await
    }

    /// Reads the selected objects of a resource, page by page.
    pub(crate) async fn list(
        &self,
        resource: &Resource,
        selection: Selection<'_>,
    ) -> Result<Vec<Value>, ClusterError> {
        let list_type =
            json!({"apiVersion": resource.api_version(), "kind": format!("{}List", resource.kind)});
        let pages = self.pages(resource, selection, JSON).await?;
        let items = pages
            .into_iter()
            .flat_map(|mut page| take_list(&mut page, "items"));
        Ok(items.map(|item| with_kind_from_list(&list_type, item)).collect())
    }

    /// Reads the selected objects of a resource as a table, with the columns that the API server prints.
    pub(crate) async fn table(
        &self,
        resource: &Resource,
        selection: Selection<'_>,
    ) -> Result<ServerTable, ClusterError> {
        let mut table = ServerTable::default();
        for mut page in self.pages(resource, selection, TABLE).await? {
            table.columns = take_list(&mut page, "columnDefinitions");
            table.rows.extend(take_list(&mut page, "rows"));
        }
        Ok(table)
    }

    /// Reads the kinds that the API server serves in the API group of the mesh. Returns no kind if it serves none.
    pub(crate) async fn mesh_kinds(&self) -> Result<Vec<ServedKind>, ClusterError> {
        let api_version = format!("{}/{}", kermode_crds::GROUP, kermode_crds::VERSION);
        let request = Request {
            verb: "get",
            resource: format!("/apis/{api_version}"),
            namespace: None,
            name: None,
        };
        let list = match self.read(&request, &request.resource, JSON).await {
            Err(ClusterError::NotServed { .. } | ClusterError::NotFound { .. }) => return Ok(Vec::new()),
            list => list?,
        };
        let text = |resource: &Value, key: &str| resource[key].as_str().unwrap_or_default().to_owned();
        let resources = list["resources"].as_array().into_iter().flatten();
        Ok(resources
            .map(|resource| ServedKind {
                api_version: api_version.clone(),
                kind: text(resource, "kind"),
                plural: text(resource, "name"),
            })
            // A name with a slash is that of a subresource.
            .filter(|kind| !kind.plural.contains('/'))
            .collect())
    }

    /// Reads all objects of a kind of the mesh, page by page.
    pub(crate) async fn list_kind(&self, kind: &ServedKind) -> Result<Vec<Value>, ClusterError> {
        let request = Request {
            verb: "list",
            resource: format!("{}.{}", kind.plural, kermode_crds::GROUP),
            namespace: None,
            name: None,
        };
        let path = format!("/apis/{}/{}", kind.api_version, kind.plural);
        let pages = self.pages_at(request, &path, Selection::default(), JSON).await?;
        let list_type = json!({"apiVersion": kind.api_version, "kind": format!("{}List", kind.kind)});
        let items = pages
            .into_iter()
            .flat_map(|mut page| take_list(&mut page, "items"));
        Ok(items.map(|item| with_kind_from_list(&list_type, item)).collect())
    }

    /// Reads the pages of a list as `media_type`.
    async fn pages(
        &self,
        resource: &Resource,
        selection: Selection<'_>,
        media_type: &'static str,
    ) -> Result<Vec<Value>, ClusterError> {
        let request = Request {
            verb: "list",
            resource: resource.full_name(),
            namespace: selection.namespace.map(str::to_owned),
            name: None,
        };
        self.pages_at(
            request,
            &resource.path(selection.namespace),
            selection,
            media_type,
        )
        .await
    }

    /// Reads the pages of the list at a path as `media_type`.
    async fn pages_at(
        &self,
        request: Request,
        path: &str,
        selection: Selection<'_>,
        media_type: &'static str,
    ) -> Result<Vec<Value>, ClusterError> {
        let mut pages = Vec::new();
        self.visit_pages(request, path, selection, media_type, |page| pages.push(page))
            .await?;
        Ok(pages)
    }

    /// Calls `visit` with each page of the list at a path, read as `media_type`.
    async fn visit_pages(
        &self,
        request: Request,
        path: &str,
        selection: Selection<'_>,
        media_type: &'static str,
        mut visit: impl FnMut(Value),
    ) -> Result<(), ClusterError> {
        let mut next = String::new();
        for _ in 0..MAX_PAGES {
            let path = format!(
                "{path}?limit={PAGE_SIZE}&labelSelector={}&fieldSelector={}&continue={}",
                percent_encode(selection.labels),
                percent_encode(selection.fields),
                percent_encode(&next),
            );
            let page = self.read(&request, &path, media_type).await?;
            let token = page["metadata"]["continue"].as_str();
            token.unwrap_or_default().clone_into(&mut next);
            visit(page);
            if next.is_empty() {
                return Ok(());
            }
        }
        Err(ClusterError::TooManyPages {
            cluster: self.name.clone(),
            request,
        })
    }

    /// Reads the version of the API server. Returns `None` if it cannot be parsed, or if the user may not read it.
    pub(crate) async fn version(&self) -> Result<Option<KubernetesVersion>, ClusterError> {
        let request = Request {
            verb: "get",
            resource: "/version".to_owned(),
            namespace: None,
            name: None,
        };
        let version = match self.read(&request, "/version", JSON).await {
            Err(error) if error.is_about_one_resource() => return Ok(None),
            version => version?,
        };
        let part = |key: &str| version[key].as_str().unwrap_or_default().to_owned();
        Ok(KubernetesVersion::parse(&format!(
            "{}.{}",
            part("major"),
            part("minor")
        )))
    }

    async fn read(
        &self,
        request: &Request,
        path: &str,
        media_type: &'static str,
    ) -> Result<Value, ClusterError> {
        let http = http::Request::get(path)
            .header(http::header::ACCEPT, media_type)
            .body(Vec::new());
        let http = http.map_err(|error| self.error(request, kube::Error::HttpError(error)))?;
        self.send(request, http).await
    }

    /// Sends a request, and decodes the response as JSON.
    async fn send(&self, request: &Request, http: http::Request<Vec<u8>>) -> Result<Value, ClusterError> {
        // The future is large, and commands wait for many of them at the same time.
        let response = Box::pin(self.client.request(http));
        match tokio::time::timeout(self.timeout, response).await {
            Ok(response) => response.map_err(|error| self.error(request, error)),
            Err(_) => Err(self.timeout_error(request)),
        }
    }

    fn timeout_error(&self, request: &Request) -> ClusterError {
        ClusterError::Timeout {
            cluster: self.name.clone(),
            request: request.clone(),
            limit: duration::format(self.timeout),
        }
    }

    fn error(&self, request: &Request, error: kube::Error) -> ClusterError {
        ClusterError::of(self.name.clone(), request.clone(), error)
    }
}

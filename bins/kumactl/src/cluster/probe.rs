//! Requests of the checks: the clock of the API server, permissions, a creation in a dry run, and objects that are visited
//! one by one or without their content.

use std::time::SystemTime;

use kermode_manifests::documents::with_kind_from_list;
use kube::client::Body;
use serde_json::{Value, json};

use super::error::Request;
use super::{ClusterClient, ClusterError, JSON, Resource, Selection, take_list};

/// Media type of a list whose objects have only metadata.
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches>
const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
/// Path of the API by which a user asks for the own permissions.
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Time of the API server, and of this machine at the same moment.
pub(crate) struct ServerTime {
    pub(crate) local: SystemTime,
    /// Header `Date` of the response, for example `Tue, 01 Dec 2026 02:19:55 GMT`.
    pub(crate) api_server: String,
}

impl ClusterClient {
    /// Calls `visit` with each selected object of a resource. Only one page is in memory at a time.
    pub(crate) async fn visit(
        &self,
        resource: &Resource,
        selection: Selection<'_>,
        mut visit: impl FnMut(Value),
    ) -> Result<(), ClusterError> {
        let list_type =
            json!({"apiVersion": resource.api_version(), "kind": format!("{}List", resource.kind)});
        let request = request("list", resource, selection.namespace);
        let path = resource.path(selection.namespace);
        self.visit_pages(request, &path, selection, JSON, |mut page| {
            for item in take_list(&mut page, "items") {
                visit(with_kind_from_list(&list_type, item));
            }
        })
        .await
    }

    /// Reads the names of the objects of a resource in a namespace. The API server leaves out the content of the objects.
    pub(crate) async fn names(
        &self,
        resource: &Resource,
        namespace: &str,
    ) -> Result<Vec<String>, ClusterError> {
        let request = request("list", resource, Some(namespace));
        let path = resource.path(Some(namespace));
        let mut names = Vec::new();
        self.visit_pages(request, &path, Selection::default(), METADATA, |mut page| {
            let items = take_list(&mut page, "items").into_iter();
            names.extend(items.filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned())));
        })
        .await?;
        Ok(names)
    }

    /// Reads the clock of the API server; `None` if its response has no date.
    pub(crate) async fn server_time(&self) -> Result<Option<ServerTime>, ClusterError> {
        let request = path_request("get", "/version");
        let http = http::Request::get("/version").body(Body::empty());
        let http = http.map_err(|error| self.error(&request, kube::Error::HttpError(error)))?;
        let sent = SystemTime::now();
        let response = match tokio::time::timeout(self.timeout, Box::pin(self.client.send(http))).await {
            Ok(response) => response.map_err(|error| self.error(&request, error))?,
            Err(_) => return Err(self.timeout_error(&request)),
        };
        let duration = sent.elapsed().unwrap_or_default();
        let date = response.headers().get(http::header::DATE);
        Ok(date.and_then(|date| date.to_str().ok()).map(|date| ServerTime {
            local: sent + duration / 2,
            api_server: date.to_owned(),
        }))
    }

    /// Whether the API server serves a resource.
    pub(crate) async fn serves(&self, resource: &Resource) -> Result<bool, ClusterError> {
        let path = format!("/apis/{}", resource.api_version());
        match self.read(&path_request("get", &path), &path, JSON).await {
            Ok(_) => Ok(true),
            Err(ClusterError::NotServed { .. } | ClusterError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the user may use a verb on a resource, which is named as in `kubectl auth can-i`.
    pub(crate) async fn may(
        &self,
        verb: &str,
        resource: &str,
        namespace: Option<&str>,
    ) -> Result<bool, ClusterError> {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb, "group": group, "resource": plural, "namespace": namespace.unwrap_or_default(),
            }},
        });
        let request = path_request("create", "selfsubjectaccessreviews.authorization.k8s.io");
        let answer = self.post(&request, ACCESS_REVIEWS, &review).await?;
        Ok(answer["status"]["allowed"] == true)
    }

    /// Sends an object through the admission of the API server, which does not store it. Returns the admitted object.
    pub(crate) async fn create_in_dry_run(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &Value,
    ) -> Result<Value, ClusterError> {
        let request = request("create", resource, Some(namespace));
        let path = format!("{}?dryRun=All", resource.path(Some(namespace)));
        self.post(&request, &path, object).await
    }

    async fn post(&self, request: &Request, path: &str, body: &Value) -> Result<Value, ClusterError> {
        let http = http::Request::post(path)
            .header(http::header::ACCEPT, JSON)
            .header(http::header::CONTENT_TYPE, JSON)
            .body(body.to_string().into_bytes());
        let http = http.map_err(|error| self.error(request, kube::Error::HttpError(error)))?;
        self.send(request, http).await
    }
}

fn request(verb: &'static str, resource: &Resource, namespace: Option<&str>) -> Request {
    Request {
        verb,
        resource: resource.full_name(),
        namespace: namespace.map(str::to_owned),
        name: None,
    }
}

fn path_request(verb: &'static str, path: &str) -> Request {
    Request {
        verb,
        resource: path.to_owned(),
        namespace: None,
        name: None,
    }
}

//! Follows this endpoint's way out, from the drain's beginning until no proxy sends requests here any more.
//!
//! Each replica of the control plane knows which of its proxies have acknowledged the removal
//! (`kermode-xds`), so all of them are asked. For now it is told to the log: an operator sees how much of the
//! drain time was needed. Nothing waits for it.

mod account;

use anyhow::Context as _;
use http::uri::PathAndQuery;
use kermode_protocol::removals::{WATCH_REMOVAL, WatchRemovalRequest, WatchRemovalResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use self::account::{Account, Progress, Source};
use crate::backoff::Backoff;
use crate::control_plane::ControlPlane;
use crate::token::TokenFile;

/// How many messages of those who ask may wait.
const WAITING: usize = 16;

/// The way to the control plane's accounts of departures.
#[derive(Clone)]
pub(crate) struct Departure {
    pub(crate) control_plane: ControlPlane,
    /// To whichever replica the Service leads to.
    pub(crate) any_replica: Channel,
    pub(crate) token: TokenFile,
}

/// What became of a question.
enum Heard {
    Answer(WatchRemovalResponse),
    /// The replica does not answer, or no longer.
    Nothing,
    /// The control plane is of a version that cannot be asked.
    Unknown,
}

impl Departure {
    /// Follows it to its end.
    pub(crate) async fn follow(self) {
        let (sender, mut heard) = mpsc::channel(WAITING);
        // All of them end with this.
        let mut asking = JoinSet::new();
        asking.spawn(self.clone().ask(Source::Service, sender.clone()));
        let mut account = Account::default();
        while let Some((source, heard)) = heard.recv().await {
            let progress = match heard {
                Heard::Answer(answer) => account.on_answer(source, answer),
                Heard::Nothing => account.on_silence(source),
                Heard::Unknown => {
                    tracing::debug!("the control plane does not tell who still sends requests here");
                    return;
                }
            };
            match progress {
                Progress::Ask(replicas) => {
                    for address in replicas {
                        asking.spawn(self.clone().ask(Source::Replica(address), sender.clone()));
                    }
                }
                Progress::Wait { known_by } => {
                    tracing::debug!(proxies = known_by, "proxies may still send requests here");
                }
                Progress::Over { took, replicas } => {
                    tracing::info!(
                        milliseconds = took.as_millis(),
                        replicas,
                        "every proxy has acknowledged that this endpoint is gone"
                    );
                    return;
                }
            }
        }
    }

    /// Asks one replica, and asks again when it does not answer any more.
    async fn ask(self, source: Source, heard: mpsc::Sender<(Source, Heard)>) {
        let channel = match source {
            Source::Service => self.any_replica.clone(),
            Source::Replica(address) => self.control_plane.replica(address),
        };
        let mut backoff = Backoff::default();
        loop {
            let ended = self.listen(channel.clone(), source, &heard, &mut backoff).await;
            let news = match ended {
                Err(error) if error.downcast_ref().map(Status::code) == Some(Code::Unimplemented) => {
                    Heard::Unknown
                }
                Ok(()) => Heard::Nothing,
                Err(error) => {
                    tracing::debug!(
                        %source,
                        error = format!("{error:#}"),
                        "the control plane does not tell who still sends requests here"
                    );
                    Heard::Nothing
                }
            };
            if heard.send((source, news)).await.is_err() {
                return;
            }
            sleep(backoff.next(fastrand::f64())).await;
        }
    }

    /// Passes answers on for as long as there are any.
    async fn listen(
        &self,
        channel: Channel,
        source: Source,
        heard: &mpsc::Sender<(Source, Heard)>,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let mut answers = self.open(channel).await?;
        while let Some(answer) = answers.message().await? {
            backoff.reset();
            // Whoever does not listen any more has dropped this, too.
            let _ = heard.send((source, Heard::Answer(answer))).await;
        }
        Ok(())
    }

    async fn open(&self, channel: Channel) -> anyhow::Result<Streaming<WatchRemovalResponse>> {
        let mut request = Request::new(WatchRemovalRequest {});
        request
            .metadata_mut()
            .insert("authorization", self.token.authorization().await?);
        let mut client = Grpc::new(channel);
        client.ready().await.context("connecting to the control plane")?;
        let codec = ProstCodec::<WatchRemovalRequest, WatchRemovalResponse>::default();
        let path = PathAndQuery::from_static(WATCH_REMOVAL);
        let answers = client.server_streaming(request, path, codec).await?;
        Ok(answers.into_inner())
    }
}

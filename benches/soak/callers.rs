//! Honest clients: each has a certificate or none, connects, makes some calls at once and one after another, and connects
//! again. What they get is compared with what they may.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::catalogue::Catalogue;
use crate::client::{Client, Door};
use crate::noise::Random;
use crate::scene::Scene;
use crate::work::Work;

/// A kind of client.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) certificate: Option<&'static str>,
    may_push: bool,
    /// Calls at a time on a connection.
    width: u64,
}

/// Who has limits of its own in the rules.
const HURRIED: &str = "hurried";

pub(crate) const CALLERS: [Caller; 5] = [
    Caller::new(Some("writer"), true, 4),
    Caller::new(Some("builder"), true, 3),
    Caller::new(Some("reader"), false, 3),
    Caller::new(None, false, 2),
    Caller::new(Some(HURRIED), false, 6),
];

impl Caller {
    const fn new(certificate: Option<&'static str>, may_push: bool, width: u64) -> Caller {
        Caller {
            certificate,
            may_push,
            width,
        }
    }

    fn name(self) -> &'static str {
        self.certificate.unwrap_or("anonymous")
    }

    /// Calls until it is told to stop; everything has ended then.
    pub(crate) async fn run(self, scene: Arc<Scene>, door: Door, seed: u64) {
        let mut random = Random(seed);
        while !scene.is_over() {
            let begun = Instant::now();
            let client = match door.connect().await {
                Ok(client) => Arc::new(client),
                Err(failure) => {
                    scene.tally.fault(&format!("connect of {}: {failure:?}", self.name()));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            scene.tally.good("connect", begun.elapsed());
            let calls = 20 + random.next() % 200;
            let mut tasks = JoinSet::new();
            for _ in 0..self.width {
                let (scene, client, mut random) = (Arc::clone(&scene), Arc::clone(&client), Random(random.next()));
                tasks.spawn(async move {
                    for _ in 0..calls {
                        if scene.is_over() || client.has_ended() {
                            break;
                        }
                        self.call(&scene, &client, &mut random).await;
                        tokio::time::sleep(Duration::from_millis(random.next() % 30)).await;
                    }
                });
            }
            tasks.join_all().await;
            let Some(client) = Arc::into_inner(client) else { return };
            if client.has_ended() {
                // Its calls may have told of it, or not.
                scene.tally.fault(&format!("the connection of {} ended", self.name()));
            } else if tokio::time::timeout(Duration::from_secs(60), client.close())
                .await
                .is_err()
            {
                scene.tally.fault("a connection without calls does not close");
            }
        }
    }

    async fn call(self, scene: &Scene, client: &Client, random: &mut Random) {
        let work = Work::pick(random);
        let [replicated, embedded] = &scene.catalogues;
        // Callers without a certificate may use one instance only, and try the other one now and then.
        let embedded_in = if self.certificate.is_some() { 2 } else { 20 };
        let catalogue = if random.next().is_multiple_of(embedded_in) {
            embedded
        } else {
            replicated
        };
        let begun = Instant::now();
        let Some(done) = work.run(client, catalogue, random).await else {
            return;
        };
        let call = (work.name(), self.may(work, catalogue));
        scene.tally.ended(self.name(), call, begun, done, |failure| {
            if self.certificate == Some(HURRIED) && failure.text.contains("than it may here") {
                return Some("its share is used up");
            }
            let is_replicated = catalogue.instance.is_empty();
            is_replicated.then(|| scene.outages.explain(failure, begun))?
        });
    }

    /// Whether it may. What becomes of a call that is cancelled says nothing.
    fn may(self, work: Work, catalogue: &Catalogue) -> bool {
        match work {
            Work::CancelReads | Work::CancelWrite => true,
            _ if self.certificate.is_none() && !catalogue.instance.is_empty() => false,
            _ => self.may_push || !work.is_push(),
        }
    }
}

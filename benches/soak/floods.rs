//! Clients that mean no good. How the gate gets rid of them, and when, is its own affair: here it matters that all others
//! are served meanwhile, and that nothing of them is left.

use std::sync::Arc;
use std::time::Duration;

use casgate::policy::method::Method;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::Result;
use crate::calls::framed;
use crate::client::{Door, Open};
use crate::frames::{self, Frame, header_block};
use crate::noise::{Blob, Random};
use crate::scene::Scene;
use crate::work::{read_request, write_messages};

/// What is done again and again.
#[derive(Clone, Copy, Debug)]
enum Flood {
    RapidReset,
    Pings,
    /// Those who do not read the answers.
    DeafPings,
    Settings,
    EmptyData,
    HalfHandshakes,
    SlowReads,
    SlowWrites,
    Connections,
    /// Connections that are good, and on which nothing comes.
    Silence,
    Garbage,
}

const ALL: [Flood; 11] = [
    Flood::RapidReset,
    Flood::Pings,
    Flood::DeafPings,
    Flood::Settings,
    Flood::EmptyData,
    Flood::HalfHandshakes,
    Flood::SlowReads,
    Flood::SlowWrites,
    Flood::Connections,
    Flood::Silence,
    Flood::Garbage,
];
/// Frames that are sent as fast as they are taken.
const FRAMES: u32 = 20_000;
/// How long the gate has to say what it thinks of it.
const ANSWER: Duration = Duration::from_secs(2);
/// How long those who hold something hold it: longer than the timeouts of the configuration.
const HOLD: Duration = Duration::from_secs(25);

/// All floods at once, each again and again, until this is dropped.
pub(crate) fn begin(scene: &Arc<Scene>) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for (number, flood) in ALL.into_iter().enumerate() {
        let door = scene.stage.back_door(Some("flood"))?;
        let stranger = scene.stage.back_door(None)?;
        let scene = Arc::clone(scene);
        tasks.spawn(async move {
            let mut random = Random(number as u64);
            loop {
                // An error is that of a connection which the gate has closed.
                let ended = match flood.run(&scene, &door, &stranger, &mut random).await {
                    Ok(false) => "left",
                    _ => "ended by the gate",
                };
                scene.tally.counted(format!("flood: {flood:?}, {ended}"));
                tokio::time::sleep(Duration::from_millis(1000 + random.next() % 4000)).await;
            }
        });
    }
    Ok(tasks)
}

impl Flood {
    /// Whether the gate has ended it.
    async fn run(self, scene: &Scene, door: &Door, stranger: &Door, random: &mut Random) -> Result<bool> {
        match self {
            Flood::RapidReset => {
                let block = head(Method::Read);
                // RFC 9113, 5.1.1: clients take odd numbers.
                let frames = (0..FRAMES).flat_map(|number| {
                    [
                        Frame::new(frames::HEADERS, frames::END_HEADERS, 2 * number + 1, block.clone()),
                        Frame::reset(2 * number + 1, frames::CANCEL),
                    ]
                });
                send_frames(door, frames, true).await
            }
            Flood::Pings | Flood::DeafPings => {
                let ping = Frame::new(frames::PING, 0, 0, vec![0; 8]);
                send_frames(door, repeat(ping), matches!(self, Flood::Pings)).await
            }
            Flood::Settings => send_frames(door, repeat(Frame::settings()), true).await,
            Flood::EmptyData => {
                let head = Frame::new(frames::HEADERS, frames::END_HEADERS, 1, head(Method::Write));
                let empty = Frame::new(frames::DATA, 0, 1, Vec::new());
                send_frames(door, std::iter::once(head).chain(repeat(empty)), true).await
            }
            Flood::HalfHandshakes => half_handshakes(stranger).await,
            Flood::SlowReads => read_slowly(scene, door, random).await,
            Flood::SlowWrites => write_slowly(scene, door, random).await,
            Flood::Connections => {
                let mut all = Vec::new();
                for _ in 0..100 {
                    all.push(stranger.tcp().await?);
                }
                Ok(false)
            }
            Flood::Silence => {
                let mut all = Vec::new();
                for _ in 0..20 {
                    all.push(door.tls().await?);
                }
                ends(&mut all.pop().ok_or("none")?).await
            }
            Flood::Garbage => garbage(door, stranger, random).await,
        }
    }
}

fn repeat(frame: Frame) -> impl Iterator<Item = Frame> {
    std::iter::repeat_n(frame, FRAMES as usize)
}

fn head(method: Method) -> bytes::Bytes {
    header_block(&[
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", method.path()),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ])
}

/// Sends frames as fast as they are taken, and reads what comes at the same time, or only once all is sent.
async fn send_frames(door: &Door, frames: impl Iterator<Item = Frame>, reads: bool) -> Result<bool> {
    let (mut from, mut to) = tokio::io::split(door.tls().await?);
    let reading = async {
        let mut heap = vec![0; 64 << 10];
        while from.read(&mut heap).await.is_ok_and(|length| length > 0) {}
    };
    let sending = async {
        let mut some = frames::PREFACE.to_vec();
        Frame::settings().write(&mut some).await?;
        for frame in frames {
            frame.write(&mut some).await?;
            if some.len() > 16 << 10 {
                to.write_all(&some).await?;
                some.clear();
            }
        }
        to.write_all(&some).await?;
        to.flush().await?;
        tokio::time::sleep(ANSWER).await;
        Result::Ok(false)
    };
    if !reads {
        // The gate takes no more at some time.
        return tokio::time::timeout(HOLD, sending).await.unwrap_or(Ok(false));
    }
    tokio::select! {
        () = reading => Ok(true),
        sent = sending => sent,
    }
}

/// The first half of a ClientHello (RFC 8446, 5.1: a record of type 22 with 512 bytes, of which some come).
async fn half_handshakes(door: &Door) -> Result<bool> {
    let mut all = Vec::new();
    for _ in 0..50 {
        let mut tcp = door.tcp().await?;
        tcp.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await?;
        all.push(tcp);
    }
    ends(&mut all.pop().ok_or("none")?).await
}

/// Whether the gate ends a connection within the time for which it is held.
async fn ends(connection: &mut (impl AsyncRead + Unpin)) -> Result<bool> {
    let mut heap = Vec::new();
    let read = connection.read_to_end(&mut heap);
    Ok(tokio::time::timeout(HOLD, read).await.is_ok())
}

/// Large reads of which nothing is taken.
async fn read_slowly(scene: &Scene, door: &Door, random: &mut Random) -> Result<bool> {
    let client = door.connect().await.map_err(|failure| failure.text)?;
    let mut open: Vec<Open> = Vec::new();
    for _ in 0..20 {
        let catalogue = &scene.catalogues[random.next() as usize % 2];
        let request = read_request(catalogue, &catalogue.pick(random));
        let mut call = client.open(Method::Read).await.map_err(|failure| failure.text)?;
        call.1.send_data(framed(&request), true)?;
        open.push(call);
    }
    tokio::time::sleep(HOLD).await;
    Ok(client.has_ended())
}

/// Uploads whose DATA frames have one byte, and which never end.
async fn write_slowly(scene: &Scene, door: &Door, random: &mut Random) -> Result<bool> {
    let client = door.connect().await.map_err(|failure| failure.text)?;
    let mut open: Vec<Open> = Vec::new();
    for _ in 0..10 {
        let catalogue = &scene.catalogues[random.next() as usize % 2];
        let item = catalogue.pick(random);
        let message = write_messages(catalogue, &item).next().ok_or("an empty blob")?;
        let mut call = client.open(Method::Write).await.map_err(|failure| failure.text)?;
        for at in 0..message.len().min(500) {
            call.1.send_data(message.slice(at..=at), false)?;
            if at % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        open.push(call);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(client.has_ended())
}

/// Noise instead of TLS, instead of HTTP/2, or as the payload of frames of any kind.
async fn garbage(door: &Door, stranger: &Door, random: &mut Random) -> Result<bool> {
    let noise = Blob {
        seed: random.next(),
        size: 1 + random.next() as usize % 4096,
    };
    let noise = noise.bytes();
    match random.next() % 4 {
        0 => {
            let mut tcp = stranger.tcp().await?;
            tcp.write_all(&noise).await?;
            ends(&mut tcp).await
        }
        1 => {
            let mut tls = door.tls().await?;
            tls.write_all(&noise).await?;
            tls.flush().await?;
            ends(&mut tls).await
        }
        _ => {
            let frames = noise.chunks(64).map(|noise| {
                let [kind, flags, stream] = [0, 1, 2].map(|at| noise.get(at).copied().unwrap_or_default());
                Frame::new(kind % 12, flags, u32::from(stream % 8), noise.to_vec())
            });
            send_frames(door, frames, true).await
        }
    }
}

//! One put through a node's memory: takes the frames and gives the answers of a put over gRPC.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::Arc,
};

use bytes::Bytes;
use kvmesh_directory::limits::{BLOCK_PIECES_MAX, LOCAL_PACKET_BYTES_MAX};
use tokio::sync::mpsc::{self, error::TryRecvError};
use tonic::{Code, Status};

use super::{
    door::{Connection, Door, Doors},
    session::LocalError,
    socket::Packet,
};
use crate::{
    client::Path,
    convert::{
        ToWire,
        local::{Answer, Ask, PutPart, Request, Response},
    },
    rpc::{PutAnswer, PutCall, PutFrame, RpcError},
};

/// Frames of one packet.
const FRAMES_MAX: usize = 8;
const _: () = assert!(FRAMES_MAX * (BLOCK_PIECES_MAX * 18 + 256) <= LOCAL_PACKET_BYTES_MAX);
/// The node begins to copy once so many bytes are there.
const STAGED_BYTES: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct PutStream {
    /// None: it was given back.
    connection: Option<Connection>,
    home: Arc<Doors>,
    /// None: there are no more.
    frames: Option<mpsc::Receiver<PutFrame>>,
    /// Offered, and not answered for good.
    open: BTreeSet<u64>,
    /// A piece for which there is no place.
    waiting: Option<(u64, Bytes)>,
    part: PutPart,
    /// Bytes that it is about.
    staged: usize,
    /// On its way out.
    packet: Option<Vec<u8>>,
    ready: VecDeque<(u64, PutAnswer)>,
}

impl PutStream {
    pub(crate) fn new(door: Door, call: PutCall) -> Self {
        Self {
            connection: Some(door.connection),
            home: door.home,
            frames: Some(call.frames),
            open: BTreeSet::new(),
            waiting: None,
            // It goes with the first frames.
            part: PutPart {
                open: Some(call.open.to_wire()),
                ..PutPart::default()
            },
            staged: 0,
            packet: None,
            ready: VecDeque::new(),
        }
    }

    /// The next answer, with the id of its block; none: all are answered, and no more come.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, PutAnswer)>, RpcError> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Ok(Some(answer));
            }
            let Some(mut connection) = self.connection.take() else {
                return Ok(None);
            };
            self.collect(&mut connection);
            if self.is_over(&connection) {
                self.home.keep(connection);
                return Ok(None);
            }
            // When this fails the connection is dropped, and with it all that was staged.
            self.step(&mut connection).await?;
            self.connection = Some(connection);
        }
    }

    /// Nothing of it is on its way: another put may follow on the connection.
    fn is_over(&self, connection: &Connection) -> bool {
        self.frames.is_none()
            && self.open.is_empty()
            && self.waiting.is_none()
            && self.packet.is_none()
            && connection.places.is_empty()
    }

    /// Makes a packet of the frames that are there.
    fn collect(&mut self, connection: &mut Connection) {
        while self.packet.is_none() {
            if let Some((id, data)) = self.waiting.take() {
                self.stage(connection, id, data);
            }
            let frames = self.part.offers.len() + self.part.pieces.len();
            let full = frames >= FRAMES_MAX || self.staged >= STAGED_BYTES;
            let next = match &mut self.frames {
                Some(frames) if !full && self.waiting.is_none() => frames.try_recv(),
                _ => Err(TryRecvError::Empty),
            };
            match next {
                Ok(frame) => self.on_frame(connection, frame),
                Err(TryRecvError::Disconnected) => self.frames = None,
                Err(TryRecvError::Empty) if frames == 0 => return,
                Err(TryRecvError::Empty) => {
                    self.staged = 0;
                    let request = Request {
                        ask: Some(Ask::Put(mem::take(&mut self.part))),
                        ..Request::default()
                    };
                    self.packet = Some(request.pack());
                }
            }
        }
    }

    fn on_frame(&mut self, connection: &mut Connection, frame: PutFrame) {
        match frame.into_offer() {
            Ok((id, offer)) => {
                self.open.insert(id);
                self.part.offers.push(offer);
            }
            Err((id, data)) => self.stage(connection, id, data),
        }
    }

    fn stage(&mut self, connection: &mut Connection, id: u64, data: Bytes) {
        // Of a block that was answered nothing more is wanted.
        if !self.open.contains(&id) {
            return;
        }
        match connection.places.take(data.len()) {
            Some(at) if connection.staging.fill(at, &data) => {
                self.staged += data.len();
                self.part.pieces.push((id, at));
            }
            _ => self.waiting = Some((id, data)),
        }
    }

    /// Sends, receives, or waits for a frame.
    async fn step(&mut self, connection: &mut Connection) -> Result<(), RpcError> {
        let packet = self.packet.as_deref().unwrap_or_default();
        let wants = self.packet.is_none() && self.waiting.is_none();
        let frames = self.frames.as_mut().filter(|_| wants);
        let has_frames = frames.is_some();
        let frame = async {
            match frames {
                Some(frames) => frames.recv().await,
                None => None,
            }
        };
        tokio::select! {
            biased;
            sent = connection.socket.send(packet, &[]), if !packet.is_empty() => {
                sent.map_err(LocalError::from)?;
                self.packet = None;
            }
            received = connection.socket.receive() => {
                let packet = received.map_err(LocalError::from)?;
                self.on_packet(connection, packet.ok_or(LocalError::Closed)?)?;
            }
            frame = frame, if has_frames => match frame {
                Some(frame) => self.on_frame(connection, frame),
                None => self.frames = None,
            },
        }
        Ok(())
    }

    fn on_packet(&mut self, connection: &mut Connection, packet: Packet) -> Result<(), RpcError> {
        match Response::unpack(packet.bytes)?.answer {
            Some(Answer::Puts { answers, taken }) => {
                if !taken.iter().all(|at| connection.places.give(*at)) {
                    return Err(LocalError::Protocol.into());
                }
                for answer in answers {
                    let (id, mut answer) = PutAnswer::read(answer)?;
                    if matches!(answer, PutAnswer::Acked(_) | PutAnswer::Refused(_)) {
                        self.open.remove(&id);
                    }
                    if let PutAnswer::Acked(acked) = &mut answer {
                        acked.path = Path::Mapped;
                    }
                    self.ready.push_back((id, answer));
                }
                Ok(())
            }
            Some(Answer::Failed {
                code,
                message,
                details,
            }) => Err(Status::with_details(Code::from(code), message, details).into()),
            _ => Err(LocalError::Protocol.into()),
        }
    }
}

impl From<LocalError> for RpcError {
    fn from(error: LocalError) -> Self {
        let why = format!("a node on this host: {error}");
        Self::from(Status::unavailable(why))
    }
}

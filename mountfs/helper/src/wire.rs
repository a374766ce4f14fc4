//! The messages between a client and the helper: one packet each, a request and its answer in turn.
//!
//! Both sides use this; nothing here trusts the other side.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The length of each message in bytes.
pub const LEN: usize = 8;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// The first request: the descriptor with it is the mount's connection to the kernel.
    Connection,
    /// The kernel shall show the file that comes with it. The answer has its id.
    Show,
    /// The file with this id is shown to nobody who opens from now on.
    End(u32),
}

impl Request {
    /// As it goes over the socket.
    pub fn encode(self) -> [u8; LEN] {
        match self {
            Self::Connection => join(1, 0),
            Self::Show => join(2, 0),
            Self::End(id) => join(3, id),
        }
    }

    /// The reverse; `None` if it is no request.
    pub fn decode(message: &[u8]) -> Option<Self> {
        match split(message)? {
            (1, 0) => Some(Self::Connection),
            (2, 0) => Some(Self::Show),
            (3, id) => Some(Self::End(id)),
            _ => None,
        }
    }
}

/// What the helper answers: an id (0 where there is none), or what was wrong.
pub type Answer = Result<u32, Errno>;

/// An answer as it goes over the socket.
pub fn encode_answer(answer: Answer) -> [u8; LEN] {
    match answer {
        Ok(id) => join(0, id),
        Err(errno) => join(errno.raw_os_error().unsigned_abs(), 0),
    }
}

/// The reverse; `None` if it is no answer.
pub fn decode_answer(message: &[u8]) -> Option<Answer> {
    match split(message)? {
        (0, id) => Some(Ok(id)),
        (errno @ 1..=4095, 0) => Some(Err(Errno::from_raw_os_error(errno as i32))),
        _ => None,
    }
}

fn join(first: u32, second: u32) -> [u8; LEN] {
    let mut message = [0; LEN];
    message[..4].copy_from_slice(&first.to_le_bytes());
    message[4..].copy_from_slice(&second.to_le_bytes());
    message
}

fn split(message: &[u8]) -> Option<(u32, u32)> {
    let message: [u8; LEN] = message.try_into().ok()?;
    let (first, second) = message.split_at(4);
    Some((u32::from_le_bytes(first.try_into().ok()?), u32::from_le_bytes(second.try_into().ok()?)))
}

/// Sends a message, with a descriptor or without.
pub fn send(socket: impl AsFd, message: [u8; LEN], with: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = with.map(|fd| [fd]);
    if let Some(fds) = &fds
        && !control.push(SendAncillaryMessage::ScmRights(fds))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // One packet goes whole or not at all.
    loop {
        match sendmsg(socket.as_fd(), &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// A message, and the descriptor that came with it. `None` after the end. More than a message, or more than one descriptor,
/// is an error; what was sent too much is closed.
pub fn receive(socket: impl AsFd) -> io::Result<Option<([u8; LEN], Option<OwnedFd>)>> {
    let mut message = [0; LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut parts = [IoSliceMut::new(&mut message)];
        match recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            got => break got?,
        }
    };
    let (mut with, mut crowded) = (None, false);
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            // What is padding in the buffer may have taken more than one.
            fds.for_each(|fd| crowded |= with.replace(fd).is_some());
        }
    }
    if got.bytes == 0 && with.is_none() {
        return Ok(None);
    }
    if crowded || got.bytes != LEN || got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of another form was sent"));
    }
    Ok(Some((message, with)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::fs::File;
    use std::io::Read as _;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else() {
        for request in [Request::Connection, Request::Show, Request::End(0), Request::End(u32::MAX)] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for answer in [Ok(0), Ok(7), Err(Errno::PERM)] {
            assert_eq!(decode_answer(&encode_answer(answer)), Some(answer));
        }
        for wrong in [join(0, 0), join(1, 1), join(2, 1), join(4, 0)] {
            assert_eq!(Request::decode(&wrong), None);
        }
        for len in (0..LEN).chain([LEN + 1]) {
            assert_eq!(Request::decode(&vec![1; len]), None);
            assert_eq!(decode_answer(&vec![0; len]), None);
        }
        assert_eq!(decode_answer(&join(4096, 0)), None);
        assert_eq!(decode_answer(&join(1, 1)), None);
    }

    #[test]
    fn a_message_comes_with_its_file_and_the_end_is_told() {
        let (here, there) = pair();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "bytes").unwrap();
        send(&here, Request::Show.encode(), Some(File::open(&path).unwrap().as_fd())).unwrap();
        send(&here, Request::End(3).encode(), None).unwrap();
        let (message, file) = receive(&there).unwrap().unwrap();
        assert_eq!(message, Request::Show.encode());
        let mut found = String::new();
        File::from(file.unwrap()).read_to_string(&mut found).unwrap();
        assert_eq!(found, "bytes");
        let (message, file) = receive(&there).unwrap().unwrap();
        assert_eq!(Request::decode(&message), Some(Request::End(3)));
        assert!(file.is_none());
        drop(here);
        assert!(receive(&there).unwrap().is_none());
    }

    #[test]
    fn too_many_files_and_too_many_bytes_are_refused_and_closed() {
        let (here, there) = pair();
        let (kept, other) = pair();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [other.as_fd(), other.as_fd(), other.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&here, &[IoSlice::new(&[0; LEN])], &mut control, SendFlags::empty()).unwrap();
        assert!(receive(&there).is_err());
        drop(other);
        assert!(receive(&kept).unwrap().is_none(), "whoever got the descriptors has closed them");
        for len in [1, LEN - 1, LEN + 1, 1000] {
            sendmsg(&here, &[IoSlice::new(&vec![1; len])], &mut SendAncillaryBuffer::default(), SendFlags::empty())
                .unwrap();
            assert!(receive(&there).is_err());
        }
    }
}

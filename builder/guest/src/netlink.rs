//! Network links, by the kernel's own protocol: no program for it need be there.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The loopback interface is the first one of every network namespace.
pub const LOOPBACK: u32 = 1;
/// The flags of a request that is to be answered.
pub const REQUEST_ACK: u16 = 1 | 4;

const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;

/// Brings an interface of this network namespace up.
pub fn link_up(index: u32) -> io::Result<()> {
    // struct ifinfomsg: family and padding, type, index, flags, changed flags.
    let mut body = vec![0; 4];
    for word in [index, IFF_UP, IFF_UP] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    ask(RTM_NEWLINK, REQUEST_ACK, &body)
}

/// Sends a request with this body behind its header, and waits until the kernel has done it.
pub fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // struct nlmsghdr: length, type, flags, sequence, port.
    let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    message.extend_from_slice(body);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0_u8; 1024];
    rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    if kind == NLMSG_ERROR && code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

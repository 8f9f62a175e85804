//! The one network card, by netlink: QEMU's user network has fixed addresses.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The machine's address, and how many of its bits are the network's.
const ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 15), 24);
/// The way to everywhere else, which is the host's own loopback address too.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

const CARD: &str = "eth0";
const LOOPBACK: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const REQUEST_ACK: u16 = 1 | 4;
const CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

/// Brings the loopback interface and the card up.
pub(crate) fn up() -> io::Result<()> {
    // The user network announces IPv6 also where the host has none: every connection would be tried in vain first.
    drop(fs_err::write(format!("/proc/sys/net/ipv6/conf/{CARD}/disable_ipv6"), "1"));
    let index = fs_err::read_to_string(format!("/sys/class/net/{CARD}/ifindex"))?;
    let index: u32 = index.trim().parse().map_err(io::Error::other)?;
    for link in [LOOPBACK, index] {
        // struct ifinfomsg: family and padding, type, index, flags, changed flags.
        let mut body = vec![0; 4];
        for word in [link, IFF_UP, IFF_UP] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        ask(RTM_NEWLINK, REQUEST_ACK, &body)?;
    }
    let (address, prefix) = ADDRESS;
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, address.octets());
    attribute(&mut body, IFA_ADDRESS, address.octets());
    ask(RTM_NEWADDR, REQUEST_ACK | CREATE, &body)?;
    // struct rtmsg: family, lengths of destination and source, type of service, table, protocol, scope, type, flags.
    let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    attribute(&mut body, RTA_GATEWAY, GATEWAY.octets());
    attribute(&mut body, RTA_OIF, index.to_ne_bytes());
    ask(RTM_NEWROUTE, REQUEST_ACK | CREATE, &body)
}

/// struct rtattr with a value of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend_from_slice(&8_u16.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&value);
}

fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // struct nlmsghdr: length, type, flags, sequence, port.
    let length = u32::try_from(16 + body.len()).expect("messages are short");
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

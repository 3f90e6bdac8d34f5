//! Ports for servers that must be told theirs, or must come back on the same one.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of 127.0.0.1 that is free and stays so while its server is down.
///
/// It lies below those that the system hands out by itself: one of these would be taken by some
/// outgoing connection sooner or later. Within a process no port is given twice.
pub fn reserve() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000;
    let ports = lowest_ephemeral_port().saturating_sub(first).max(1_000);
    // Test processes that run side by side begin at different places.
    let offset = std::process::id().wrapping_mul(499) as u16;
    for _ in 0..ports {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = first + offset.wrapping_add(step) % ports;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("none of {ports} ports from {first} on is free");
}

fn lowest_ephemeral_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768)
}

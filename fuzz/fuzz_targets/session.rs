//! Does a session, on either side, keep its promises whatever PDUs and timeouts come: no panic, a bounded window, every request
//! given back exactly once, and only what is owed answered?
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use smsconnect::session::{BindKind, Event, Role, Session, State, Timers};
use smsconnect::smpp::{Bind, BindResp, CommandId, CommandStatus, Npi, Tlvs, Ton, cut};

const WINDOW: usize = 8;

fn bind() -> Bind<'static> {
    Bind {
        system_id: b"fuzz",
        password: b"secret",
        system_type: b"",
        interface_version: 0x34,
        addr_ton: Ton(0),
        addr_npi: Npi(0),
        address_range: b"",
    }
}

/// What the session has said must be whole PDUs.
fn check(out: &mut Vec<u8>) {
    let mut rest = &out[..];
    while !rest.is_empty() {
        let pdu = cut(rest, 100_000).expect("an impossible length").expect("half a PDU");
        rest = &rest[pdu.bytes.len()..];
    }
    out.clear();
}

fuzz_target!(|data: &[u8]| {
    let [first, data @ ..] = data else { return };
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let timers = Timers {
        bind_ms: 50,
        enquire_link_ms: 30,
        idle_ms: 90,
        response_ms: 20,
    };
    let mut now = 1_000u64;
    let mut session: Session<u32> = Session::new(role, timers, WINDOW, now);
    let mut out = Vec::new();
    let (mut next, mut given, mut back) = (0u32, HashSet::new(), HashSet::new());
    if role == Role::Client {
        session.bind(BindKind::Transceiver, &bind(), now, &mut out);
    }
    let mut rest = data;
    while let [what, tail @ ..] = rest {
        rest = tail;
        match what % 8 {
            // A PDU: kind, status, sequence and a little body come from the data.
            0..=3 => {
                let Some((head, tail)) = rest.split_first_chunk::<5>() else { break };
                let n = usize::from(head[4] % 40).min(tail.len());
                let (body, tail) = tail.split_at(n);
                rest = tail;
                let high = if head[0] & 0x80 == 0 { 0 } else { 0x80 };
                let mut pdu = vec![0, 0, 0, (16 + n) as u8, high, 0, head[0] >> 4 & 1, head[0] & 0x2F];
                pdu.extend([0, 0, 0, head[1], 0, 0, 0, head[2]]);
                pdu.extend(body);
                let raw = cut(&pdu, 1_000).unwrap().unwrap();
                match session.receive(&raw, now, &mut out) {
                    Event::Bind(..) if head[3] & 1 == 0 => {
                        let resp = BindResp {
                            system_id: b"us",
                            tlvs: Tlvs::EMPTY,
                        };
                        session.accept(&resp, now, &mut out);
                    }
                    Event::Bind(..) => {
                        session.refuse(CommandStatus::ESME_RBINDFAIL, &mut out);
                    }
                    Event::Response { ticket, .. } => assert!(back.insert(ticket), "given back twice"),
                    _ => {}
                }
            }
            4 => now += u64::from(*what),
            5 => {
                let free = session.free();
                match session.request(next, CommandId::DELIVER_SM, now) {
                    Ok(sequence) => {
                        assert!(free > 0 && (1..=0x7FFF_FFFF).contains(&sequence));
                        given.insert(next);
                        next += 1;
                    }
                    Err(_) => assert_eq!(free, 0),
                }
            }
            6 => {
                session.timeout(now, &mut out, |_, ticket| {
                    assert!(back.insert(ticket), "given back twice");
                });
                if let Some(at) = session.next_timeout() {
                    // Nothing that is due may be left undone for ever.
                    assert!(at > now || !matches!(session.state(), State::Closed(_)));
                }
            }
            _ if what & 0x80 == 0 => session.owes_nothing(now, &mut out),
            _ => session.unbind(now, &mut out),
        }
        assert!(session.outstanding() <= WINDOW);
        check(&mut out);
    }
    for ticket in session.abandon() {
        assert!(back.insert(ticket), "given back twice");
    }
    assert_eq!(given, back, "a request was lost");
});

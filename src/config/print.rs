//! The effective configuration as TOML, secrets masked.

use std::fmt::Write;

use super::{Config, routing, sending};
use crate::money::Money;

/// Renders every key with the value in force.
#[must_use]
pub fn print(c: &Config) -> String {
    let mut out = String::new();
    let o = &c.customer;
    let list = |items: &[String]| {
        format!(
            "[{}]",
            items
                .iter()
                .map(|s| format!("{s:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let addresses =
        |items: &[std::net::SocketAddr]| list(&items.iter().map(ToString::to_string).collect::<Vec<_>>());
    let path = |p: &Option<std::path::PathBuf>| p.as_ref().map_or(String::new(), |p| p.display().to_string());
    let mut put = |text: String| {
        let _written = writeln!(out, "{text}");
    };
    put(format!(
        "[customer]\nlisten = {}\ntls_listen = {}\ntls_cert = {:?}\ntls_key = {:?}\ntls_client_ca = {:?}\nsystem_id = {:?}\nbind_timeout_ms = {}\nenquire_link_ms = {}\nidle_timeout_ms = {}\nresponse_timeout_ms = {}\npdu_timeout_ms = {}\nwindow_max = {}\ndeliver_window = {}\ndeliver_retry_min_ms = {}\ndeliver_retry_max_ms = {}\ndeliver_attempts_max = {}\nconnections_max = {}\nvalidity_default_s = {}\nvalidity_max_s = {}\nschedule_max_s = {}\nreceipt_timeout_s = {}\nreceipt_keep_s = {}\njoin_timeout_ms = {}\n",
        addresses(&o.listen),
        addresses(&o.tls_listen),
        path(&o.tls_cert),
        path(&o.tls_key),
        path(&o.tls_client_ca),
        o.system_id,
        o.bind_timeout_ms,
        o.enquire_link_ms,
        o.idle_timeout_ms,
        o.response_timeout_ms,
        o.pdu_timeout_ms,
        o.window_max,
        o.deliver_window,
        o.deliver_retry_min_ms,
        o.deliver_retry_max_ms,
        o.deliver_attempts_max,
        o.connections_max,
        o.validity_default_s,
        o.validity_max_s,
        o.schedule_max_s,
        o.receipt_timeout_s,
        o.receipt_keep_s,
        o.join_timeout_ms
    ));
    put(format!(
        "[privacy]\nrequire_dpa = {}\nnumber_key = {:?}\n\n[numbering]\ncountry_code = {:?}\nplan = {:?}\nported = {:?}\nmobile_only = {}\n\n[billing]\nutc_offset_min = {}\n",
        c.privacy.require_dpa,
        c.rules.number_key.display().to_string(),
        c.numbering.country_code,
        path(&c.numbering.plan),
        path(&c.numbering.ported),
        c.numbering.mobile_only,
        c.billing.utc_offset_min
    ));
    let s = &c.store;
    put(format!(
        "[store]\npath = {:?}\ndurability = {:?}\nfree_min_bytes = {}\nkeep_days = {}\nsegment_messages = {}\nbatch_rows_max = {}\n",
        s.path,
        s.durability.word(),
        s.free_min_bytes,
        s.keep_days,
        s.segment_messages,
        s.batch_rows_max
    ));
    put(format!(
        "[admin]\nsocket = {:?}\nmode = \"{:04o}\"\n",
        c.admin.socket, c.admin.mode
    ));
    for p in &c.admin.principal {
        let who = match (p.uid, p.gid, &p.user, &p.group) {
            (Some(n), ..) => format!("uid = {n}"),
            (_, Some(n), ..) => format!("gid = {n}"),
            (_, _, Some(n), _) => format!("user = {n:?}"),
            (_, _, _, Some(n)) => format!("group = {n:?}"),
            _ => String::new(),
        };
        put(format!(
            "[[admin.principal]]\nname = {:?}\n{who}\nroles = {}\norgs = {}\n",
            p.name,
            list(&p.roles),
            list(&p.orgs)
        ));
    }
    put("[admin.approvals]".into());
    for (item, on) in &c.admin.approvals {
        put(format!("{item} = {on}"));
    }
    let listen = c.metrics.listen.map(|a| a.to_string()).unwrap_or_default();
    put(format!("\n[metrics]\nlisten = {listen:?}\n"));
    let l = &c.limits;
    put(format!(
        "[limits]\nopen_max = {}\nwaiting_max = {}\nopen_hot_max = {}\ningress_max = {}\noutbox_max = {}\nparked_max = {}\nparked_keep_s = {}\nbind_checks_max = {}\nunbound_per_ip_max = {}\n",
        l.open_max,
        l.waiting_max,
        l.open_hot_max,
        l.ingress_max,
        l.outbox_max,
        l.parked_max,
        l.parked_keep_s,
        l.bind_checks_max,
        l.unbound_per_ip_max
    ));
    put(format!(
        "[server]\ndrain_timeout_ms = {}\nworker_threads = {}\n\n[log]\nformat = {:?}\nlevel = {:?}\n\n[status]",
        c.server.drain_timeout_ms,
        c.server.worker_threads,
        c.log.format.word(),
        c.log.level
    ));
    for (reason, status) in &c.status {
        put(format!("{reason} = {status:#x}"));
    }
    for u in &c.upstream {
        put(format!(
            "\n[[upstream]]\nname = {:?}\naddress = {}\nsystem_id = {:?}\npassword = \"***\"\nbind = {:?}\nbinds = {}\nwindow = {}\ntps = {}\nbind_tps = {}\nid_format = {:?}\nenquire_link_ms = {}\nresponse_timeout_ms = {}\nreconnect_min_ms = {}\nreconnect_max_ms = {}\nretry_min_ms = {}\nretry_max_ms = {}\nunknown_outcome = {:?}\nunknown_resend_max = {}\ncountry = {:?}\nqueue_max = {}\nsystem_type = {:?}\naddress_range = {:?}\ninterface_version = {:#x}\nsource_ton = {}\nsource_npi = {}\ndest_ton = {}\ndest_npi = {}\ndefault_alphabet = {:?}\nlong_messages = {:?}\nvalidity = {:?}\ntlvs = {:?}\nstates = {}\nerrors = {}\ntls = {}\ntls_ca = {:?}\ntls_fingerprint = {:?}\ntls_name = {:?}",
            u.name,
            list(&u.address),
            u.system_id,
            u.bind.word(),
            u.binds,
            u.window,
            u.tps,
            u.bind_tps,
            u.id_format.word(),
            u.enquire_link_ms,
            u.response_timeout_ms,
            u.reconnect_min_ms,
            u.reconnect_max_ms,
            u.retry_min_ms,
            u.retry_max_ms,
            u.unknown_outcome.word(),
            u.unknown_resend_max,
            u.country,
            u.queue_max,
            u.system_type,
            u.address_range,
            u.interface_version,
            u.source_ton,
            u.source_npi,
            u.dest_ton,
            u.dest_npi,
            u.default_alphabet.word(),
            u.long_messages.word(),
            u.validity.word(),
            u.tlvs,
            inline(u.states.iter().map(|(k, v)| format!("{k:?} = {v:?}"))),
            inline(u.errors.iter().map(|(k, v)| format!("{k:?} = {v}"))),
            u.tls,
            path(&u.tls_ca),
            u.tls_fingerprint,
            u.tls_name
        ));
        put(format!("link_id_tlv = {}", u.link_id_tlv));
        put(routing::print_upstream(u));
    }
    for r in &c.route {
        put(routing::print_route(r));
    }
    put(super::rules::print(&c.rules));
    for s in &c.sender {
        put(super::rules::print_sender(s));
    }
    for t in &c.tariff {
        put(format!(
            "\n[[tariff]]\nname = {:?}\ncurrency = {:?}\ncharge_on = {:?}\ntax_percent = \"{}\"\ntax_mode = {:?}",
            t.name,
            t.currency,
            t.charge_on.word(),
            Money(i64::from(t.tax_bp) * 10_000),
            t.tax_mode.word()
        ));
        for r in &t.refund {
            let wait = r.wait_s.map_or(String::new(), |n| format!("\nwait_s = {n}"));
            put(format!(
                "[[tariff.refund]]\nstate = {:?}\nerrors = {:?}\nthen = {:?}{wait}",
                r.state,
                r.errors,
                r.then.word()
            ));
        }
        for p in &t.price {
            put(format!(
                "[[tariff.price]]\nprefix = {:?}\noperator = {:?}\nclass = {:?}\neffective_from = {:?}\nprice = \"{}\"",
                p.prefix,
                p.operator,
                p.class,
                since(p.effective_from_ms),
                p.price
            ));
        }
    }
    for i in &c.inbound {
        let keyword = i
            .keyword
            .as_ref()
            .map_or(String::new(), |k| format!("keyword = {k:?}\n"));
        put(format!(
            "\n[[inbound]]\naddress = {:?}\n{keyword}alias = {}\naccount = {:?}\njoin = {}\nopt_out = {}",
            i.address,
            list(&i.alias),
            i.account,
            i.join,
            i.opt_out
        ));
    }
    sending::print(&c.priority, &mut out);
    out
}

/// A time as it is written in the file; empty: always.
fn since(ms: u64) -> String {
    let at = i64::try_from(ms).ok().filter(|ms| *ms > 0);
    at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(String::new, |t| t.to_string())
}

/// A table on one line.
fn inline(entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> = entries.collect();
    if entries.is_empty() {
        "{}".into()
    } else {
        format!("{{ {} }}", entries.join(", "))
    }
}

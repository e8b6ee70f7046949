//! `/metrics`: the numbers of [`crate::metrics`] as Prometheus reads them. The names are the
//! contract's (README, "Metrics").

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::budget::Budget;
use crate::metrics::{ChannelMetrics, Metrics, Refused, SiblingResults};

/// What `/metrics` answers with (the OpenMetrics text that `prometheus-client` writes).
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders all numbers of the moment.
pub(super) fn render(metrics: &Arc<Metrics>, budget: &Budget) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers {
        metrics: Arc::clone(metrics),
        buffer_bytes: budget.used(),
    }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Numbers {
    metrics: Arc<Metrics>,
    buffer_bytes: usize,
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let out = &mut encoder;
        let none = || Vec::new();
        self.counters(
            out,
            "edgeseed_origin_bytes",
            "Bytes of bodies received from the origin.",
            |channel| vec![(none(), channel.origin_bytes.get())],
        )?;
        self.counters(
            out,
            "edgeseed_served_bytes",
            "Bytes of segments served to viewers.",
            |channel| {
                vec![
                    (vec![("via", "p2p")], channel.served_p2p_bytes.get()),
                    (vec![("via", "http")], channel.served_http_bytes.get()),
                ]
            },
        )?;
        self.counters(
            out,
            "edgeseed_requests",
            "REQUESTs of viewers: answered at once, after waiting, or with LACK.",
            |channel| {
                vec![
                    (vec![("result", "hit")], channel.requests_hit.get()),
                    (vec![("result", "held")], channel.requests_held.get()),
                    (vec![("result", "lack")], channel.requests_lack.get()),
                ]
            },
        )?;
        self.counters(
            out,
            "edgeseed_origin_requests",
            "Requests to the origin.",
            |channel| {
                [
                    ("playlist", &channel.origin_playlists),
                    ("segment", &channel.origin_segments),
                ]
                .into_iter()
                .flat_map(|(kind, results)| {
                    [
                        (vec![("kind", kind), ("result", "ok")], results.ok.get()),
                        (
                            vec![("kind", kind), ("result", "error")],
                            results.error.get(),
                        ),
                    ]
                })
                .collect()
            },
        )?;
        self.counters(
            out,
            "edgeseed_sibling_requests",
            "Segments asked of sibling boxes: delivered, not there, or failed and fetched instead.",
            |channel| {
                vec![
                    (vec![("result", "ok")], channel.siblings.ok.get()),
                    (vec![("result", "lack")], channel.siblings.lack.get()),
                    (vec![("result", "failed")], channel.siblings.failed.get()),
                ]
            },
        )?;
        self.counters(
            out,
            "edgeseed_sibling_bytes",
            "Bytes of segments exchanged with sibling boxes.",
            |channel| {
                let SiblingResults {
                    bytes, sent_bytes, ..
                } = &channel.siblings;
                vec![
                    (vec![("direction", "received")], bytes.get()),
                    (vec![("direction", "sent")], sent_bytes.get()),
                ]
            },
        )?;
        gauge(
            out,
            "edgeseed_store_bytes",
            "Bytes of segments on disk.",
            self.metrics.store_bytes.get(),
        )?;
        gauge(
            out,
            "edgeseed_store_memory_bytes",
            "Bytes of segments held in memory because the disk fails.",
            self.metrics.store_memory_bytes.get(),
        )?;
        gauge(
            out,
            "edgeseed_store_writable",
            "0 while the disk fails.",
            self.metrics.store_writable.get(),
        )?;
        let written = ConstCounter::new(self.metrics.store_written_bytes.get());
        written.encode(out.encode_descriptor(
            "edgeseed_store_written_bytes",
            "Bytes of segments written to the disk: what wears a card.",
            None,
            MetricType::Counter,
        )?)?;
        self.gauges(
            out,
            "edgeseed_store_segments",
            "Segments that can be served now.",
            |channel| channel.store_segments.get() as f64,
        )?;
        self.gauges(
            out,
            "edgeseed_live_edge_lag_seconds",
            "How long ago the media of the newest stored segment ended, by the encoder's clock; \
             without one, for how long the newest listed segment has been missing.",
            |channel| channel.live_edge_lag_ms.get() as f64 / 1000.0,
        )?;
        self.gauges(
            out,
            "edgeseed_signal_connected",
            "1 while the signalling server has accepted the box into the channel.",
            |channel| f64::from(u8::from(channel.signal_connected.load(Ordering::Relaxed))),
        )?;
        self.counters(
            out,
            "edgeseed_signal_ignored",
            "Messages of the signalling server that could not be understood.",
            |channel| vec![(none(), channel.signal_ignored.get())],
        )?;
        gauge(
            out,
            "edgeseed_peers",
            "Viewers connected or connecting.",
            self.metrics.peers.get(),
        )?;
        let unreached = ConstCounter::new(self.metrics.peers_unreached.get());
        unreached.encode(out.encode_descriptor(
            "edgeseed_peers_unreached",
            "Offers after which no connectivity check ever arrived.",
            None,
            MetricType::Counter,
        )?)?;
        let refused = ConstCounter::new(self.metrics.refused_messages.get());
        refused.encode(out.encode_descriptor(
            "edgeseed_refused_messages",
            "Data-channel messages that were not of the protocol.",
            None,
            MetricType::Counter,
        )?)?;
        let server = &self.metrics.signal_server;
        gauge(
            out,
            "edgeseed_signal_server_sockets",
            "Sockets that the embedded signalling server serves.",
            server.sockets.get(),
        )?;
        let mut family = out.encode_descriptor(
            "edgeseed_signal_server_refused",
            "What the embedded signalling server refused or held back.",
            None,
            MetricType::Counter,
        )?;
        for (what, reason) in Refused::ALL {
            let count = ConstCounter::new(server.refused(what).get());
            count.encode(family.encode_family(&[("reason", reason)])?)?;
        }
        gauge(
            out,
            "edgeseed_buffer_bytes",
            "Bytes of media in flight, of [memory] max-buffers.",
            i64::try_from(self.buffer_bytes).unwrap_or(i64::MAX),
        )?;
        gauge(
            out,
            "process_resident_memory_bytes",
            "Resident memory of this process.",
            resident_bytes()
                .and_then(|b| i64::try_from(b).ok())
                .unwrap_or(0),
        )
    }
}

/// Label pairs and the value that they belong to.
type Labelled<'a> = (Vec<(&'a str, &'a str)>, u64);

impl Numbers {
    /// One counter for each channel and further labels; the encoder adds `_total` to its name.
    fn counters<'a>(
        &'a self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        values: impl Fn(&'a ChannelMetrics) -> Vec<Labelled<'a>>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (channel, metrics) in &self.metrics.channels {
            for (mut labels, value) in values(metrics) {
                labels.insert(0, ("channel", channel.as_str()));
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn gauges(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&ChannelMetrics) -> f64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (channel, metrics) in &self.metrics.channels {
            let labels = [("channel", channel.as_str())];
            ConstGauge::new(value(metrics)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

/// Resident memory of this process in bytes (proc(5), `/proc/self/statm`, second field in pages).
pub(super) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ChannelName;

    #[test]
    fn every_metric_of_the_contract_is_rendered_under_its_name() {
        let metrics = Arc::new(Metrics::new([&ChannelName::from("news")]));
        let channel = metrics.channel(&ChannelName::from("news"));
        channel.served_p2p_bytes.add(5);
        channel.live_edge_lag_ms.set(1500);
        let text = render(&metrics, &Budget::new(10)).unwrap();
        for line in [
            "edgeseed_origin_bytes_total{channel=\"news\"} 0",
            "edgeseed_served_bytes_total{channel=\"news\",via=\"p2p\"} 5",
            "edgeseed_served_bytes_total{channel=\"news\",via=\"http\"} 0",
            "edgeseed_requests_total{channel=\"news\",result=\"hit\"} 0",
            "edgeseed_requests_total{channel=\"news\",result=\"held\"} 0",
            "edgeseed_requests_total{channel=\"news\",result=\"lack\"} 0",
            "edgeseed_origin_requests_total{channel=\"news\",kind=\"segment\",result=\"ok\"} 0",
            "edgeseed_sibling_requests_total{channel=\"news\",result=\"failed\"} 0",
            "edgeseed_sibling_bytes_total{channel=\"news\",direction=\"received\"} 0",
            "edgeseed_store_bytes 0",
            "edgeseed_store_memory_bytes 0",
            "edgeseed_store_writable 1",
            "edgeseed_store_written_bytes_total 0",
            "edgeseed_store_segments{channel=\"news\"} 0",
            "edgeseed_live_edge_lag_seconds{channel=\"news\"} 1.5",
            "edgeseed_peers 0",
            "edgeseed_buffer_bytes 0",
            "edgeseed_signal_connected{channel=\"news\"} 0",
            "edgeseed_signal_ignored_total{channel=\"news\"} 0",
            "edgeseed_signal_server_sockets 0",
            "edgeseed_signal_server_refused_total{reason=\"unroutable\"} 0",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}

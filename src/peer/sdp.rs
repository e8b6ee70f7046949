//! The two ways to write a data channel into SDP. Today's is RFC 8841:
//!
//! ```text
//! m=application 9 UDP/DTLS/SCTP webrtc-datachannel
//! a=sctp-port:5000
//! ```
//!
//! Browsers of 2018 wrote an earlier draft of it (protocol.md section 3, "Connection"):
//!
//! ```text
//! m=application 9 DTLS/SCTP 5000
//! a=sctpmap:5000 webrtc-datachannel 1024
//! ```
//!
//! The stack reads `sctpmap`, but takes the media line in today's form only. Who offers in the
//! earlier form is answered in it.

/// What an offer's data channel needs: the name that RFC 8841 section 4.3 gives to its format.
const DATA_CHANNEL: &str = "webrtc-datachannel";

/// Streams in a `sctpmap`: what browsers of 2018 said, and more than the one that is used.
const STREAMS: &str = "1024";

/// How a data channel is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 8841.
    Today,
    /// draft-ietf-mmusic-sctp-sdp-07, as browsers of 2018 had it.
    Of2018,
}

/// An offer as the stack takes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// In today's form, without candidates.
    pub(super) sdp: String,
    /// Its candidate lines: the stack refuses an offer for one that it cannot read, where it could
    /// do without.
    pub(super) candidates: Vec<String>,
    /// How to answer.
    pub(super) form: Form,
}

impl Offer {
    /// Reads an offer of either form, with whatever line ends.
    pub(super) fn read(text: &str) -> Self {
        let mut offer = Self {
            sdp: String::with_capacity(text.len() + 64),
            candidates: Vec::new(),
            form: Form::Today,
        };
        for line in text.lines() {
            if line.starts_with("a=candidate:") {
                offer.candidates.push(line.to_owned());
            } else if let Some(port) = media_line_of_2018(line) {
                offer.form = Form::Of2018;
                push(
                    &mut offer.sdp,
                    &media_line(port, "UDP/DTLS/SCTP", DATA_CHANNEL),
                );
            } else if line != "a=end-of-candidates" {
                push(&mut offer.sdp, line);
            }
        }
        offer
    }
}

impl Form {
    /// Writes an answer of the stack in this form.
    pub(super) fn write(self, answer: String) -> String {
        if self == Self::Today {
            return answer;
        }
        let attribute = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name));
        let sctp_port = attribute("a=sctp-port:").unwrap_or("5000");
        let mut written = String::with_capacity(answer.len());
        for line in answer.lines() {
            match media_fields(line) {
                Some([port, _, DATA_CHANNEL]) => {
                    push(&mut written, &media_line(port, "DTLS/SCTP", sctp_port));
                }
                _ if line.starts_with("a=sctp-port:") => {
                    let map = format!("a=sctpmap:{sctp_port} {DATA_CHANNEL} {STREAMS}");
                    push(&mut written, &map);
                }
                // Came with RFC 8841.
                _ if line.starts_with("a=max-message-size:") => {}
                _ => push(&mut written, line),
            }
        }
        written
    }
}

/// The UDP port of a data channel's media line, if that is in the form of 2018.
fn media_line_of_2018(line: &str) -> Option<&str> {
    let [port, protocol, sctp_port] = media_fields(line)?;
    let is_old = protocol == "DTLS/SCTP" && sctp_port.parse::<u16>().is_ok();
    is_old.then_some(port)
}

/// Port, protocol and format of an `m=application` line.
fn media_fields(line: &str) -> Option<[&str; 3]> {
    let mut fields = line.strip_prefix("m=application ")?.split_whitespace();
    Some([fields.next()?, fields.next()?, fields.next()?])
}

fn media_line(port: &str, protocol: &str, format: &str) -> String {
    format!("m=application {port} {protocol} {format}")
}

fn push(sdp: &mut String, line: &str) {
    sdp.push_str(line);
    sdp.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chrome 66 (2018).
    const OF_2018: &str = "v=0\r\n\
        o=- 4327261771880257373 2 IN IP4 127.0.0.1\r\n\
        s=-\r\n\
        t=0 0\r\n\
        a=group:BUNDLE data\r\n\
        a=msid-semantic: WMS\r\n\
        m=application 9 DTLS/SCTP 5000\r\n\
        c=IN IP4 0.0.0.0\r\n\
        a=ice-ufrag:oxzM\r\n\
        a=ice-pwd:KVlvvmQnw7nUTSSpqSrrlX8o\r\n\
        a=ice-options:trickle\r\n\
        a=setup:actpass\r\n\
        a=mid:data\r\n\
        a=sctpmap:5000 webrtc-datachannel 1024\r\n";

    const ANSWER: &str = "v=0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
        c=IN IP4 0.0.0.0\r\n\
        a=setup:active\r\n\
        a=mid:data\r\n\
        a=sctp-port:5000\r\n\
        a=max-message-size:65536\r\n\
        a=candidate:1 1 udp 2130706431 127.0.0.1 12036 typ host\r\n";

    #[test]
    fn an_offer_of_2018_becomes_one_of_today() {
        let offer = Offer::read(OF_2018);
        let today = OF_2018.replace("9 DTLS/SCTP 5000", "9 UDP/DTLS/SCTP webrtc-datachannel");
        assert_eq!(offer.sdp, today);
        assert_eq!(offer.form, Form::Of2018);
    }

    #[test]
    fn ports_are_kept() {
        let offer = Offer::read(
            "m=application 58 DTLS/SCTP 5001\r\na=sctpmap:5001 webrtc-datachannel 256\r\n",
        );
        assert_eq!(
            offer.sdp,
            "m=application 58 UDP/DTLS/SCTP webrtc-datachannel\r\n\
             a=sctpmap:5001 webrtc-datachannel 256\r\n"
        );
        assert_eq!(offer.form, Form::Of2018);
    }

    #[test]
    fn an_offer_of_today_stays_as_it_is() {
        for line in [
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
            "m=application 9 DTLS/SCTP webrtc-datachannel",
            "m=application 9 UDP/BFCP *",
            "m=application 9 DTLS/SCTP",
            "m=application",
            "m=audio 9 DTLS/SCTP 5000",
        ] {
            let text = format!("v=0\r\n{line}\r\na=sctp-port:5000\r\n");
            let offer = Offer::read(&text);
            assert_eq!((offer.sdp, offer.form), (text, Form::Today), "{line}");
        }
    }

    #[test]
    fn candidates_are_taken_out_of_an_offer() {
        let local = "a=candidate:1 1 udp 1 3f2a.local 9 typ host";
        let garbage = "a=candidate:garbage";
        let text = format!("{OF_2018}{local}\r\n{garbage}\r\na=end-of-candidates\r\n");
        let offer = Offer::read(&text);
        assert_eq!(offer.candidates, [local, garbage]);
        assert_eq!(offer.sdp, Offer::read(OF_2018).sdp);
    }

    #[test]
    fn lines_may_end_with_a_bare_line_feed() {
        assert_eq!(
            Offer::read(&OF_2018.replace("\r\n", "\n")),
            Offer::read(OF_2018)
        );
    }

    #[test]
    fn an_answer_of_2018_announces_the_channel_as_it_was_offered() {
        let expected = ANSWER
            .replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5000")
            .replace("a=sctp-port:5000", "a=sctpmap:5000 webrtc-datachannel 1024")
            .replace("a=max-message-size:65536\r\n", "");
        assert_eq!(Form::Of2018.write(ANSWER.to_owned()), expected);
    }

    #[test]
    fn an_answer_of_today_stays_as_it_is() {
        assert_eq!(Form::Today.write(ANSWER.to_owned()), ANSWER);
    }
}

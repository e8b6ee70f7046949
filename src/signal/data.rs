//! What peers tell each other in `signal.data`: an offer, an answer, ICE candidates. The server
//! never looks inside; the box does (protocol.md section 3).

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// How `data` is written. Pages send an object, the seed has a string holding the same JSON; we
/// answer in the form in which the peer spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataForm {
    /// `"data": {"type": …}`
    Object,
    /// `"data": "{\"type\": …}"`
    Text,
}

/// The content of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalData {
    /// The initiator's session description (RFC 8829).
    Offer {
        /// SDP.
        sdp: String,
    },
    /// The answer to an offer.
    Answer {
        /// SDP.
        sdp: String,
    },
    /// One ICE candidate (RFC 8838 trickle).
    Candidate {
        /// The candidate attribute as it came, with or without a leading `a=`.
        candidate: String,
        /// `sdpMid`, the media section by name.
        sdp_mid: Option<String>,
        /// `sdpMLineIndex`, the media section by number.
        sdp_mline_index: Option<u16>,
    },
    /// No further candidate will come. First-generation pages never say so.
    EndOfCandidates,
}

/// All that can stand in `data`.
#[derive(Default, Deserialize, Serialize)]
struct Fields {
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sdp: Option<String>,
    #[serde(default, deserialize_with = "even_null")]
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<CandidateField>,
    // Where a client sends the candidate itself instead of wrapping it.
    #[serde(rename = "sdpMid", default, skip_serializing)]
    sdp_mid: Option<String>,
    #[serde(rename = "sdpMLineIndex", default, skip_serializing)]
    sdp_mline_index: Option<u16>,
}

/// Tells `"candidate": null` (the last one) from no `candidate` at all.
fn even_null<'de, D>(value: D) -> Result<Option<CandidateField>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    CandidateField::deserialize(value).map(Some)
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum CandidateField {
    Wrapped {
        candidate: String,
        #[serde(rename = "sdpMLineIndex", default)]
        sdp_mline_index: Option<u16>,
        #[serde(rename = "sdpMid", default)]
        sdp_mid: Option<String>,
    },
    Flat(String),
    End(()),
}

impl SignalData {
    /// Reads `data` in either form. `None`: something else, which we have no use for.
    pub fn parse(data: &RawValue) -> Option<(Self, DataForm)> {
        let text = data.get();
        if !text.starts_with('"') {
            return Some((Self::from_object(text)?, DataForm::Object));
        }
        let inner: String = serde_json::from_str(text).ok()?;
        Some((Self::from_object(&inner)?, DataForm::Text))
    }

    fn from_object(json: &str) -> Option<Self> {
        let fields: Fields = serde_json::from_str(json).ok()?;
        let (candidate, sdp_mid, sdp_mline_index) = match (fields.candidate, fields.sdp) {
            (None, Some(sdp)) => {
                return match fields.kind.as_deref() {
                    Some("offer") => Some(Self::Offer { sdp }),
                    Some("answer") => Some(Self::Answer { sdp }),
                    _ => None,
                };
            }
            (None, None) => return None,
            (Some(CandidateField::End(())), _) => return Some(Self::EndOfCandidates),
            (Some(CandidateField::Flat(text)), _) => (text, fields.sdp_mid, fields.sdp_mline_index),
            (
                Some(CandidateField::Wrapped {
                    candidate,
                    sdp_mid,
                    sdp_mline_index,
                }),
                _,
            ) => (candidate, sdp_mid, sdp_mline_index),
        };
        if candidate.is_empty() {
            return Some(Self::EndOfCandidates);
        }
        Some(Self::Candidate {
            candidate,
            sdp_mid,
            sdp_mline_index,
        })
    }

    /// Writes `data` in the form that the peer uses.
    pub fn render(&self, form: DataForm) -> Box<RawValue> {
        let session = |kind: &str, sdp: &String| Fields {
            kind: Some(kind.to_owned()),
            sdp: Some(sdp.clone()),
            ..Fields::default()
        };
        let fields = match self {
            Self::Offer { sdp } => session("offer", sdp),
            Self::Answer { sdp } => session("answer", sdp),
            Self::Candidate {
                candidate,
                sdp_mid,
                sdp_mline_index,
            } => Fields {
                candidate: Some(CandidateField::Wrapped {
                    candidate: candidate.clone(),
                    sdp_mline_index: *sdp_mline_index,
                    sdp_mid: sdp_mid.clone(),
                }),
                ..Fields::default()
            },
            Self::EndOfCandidates => Fields {
                candidate: Some(CandidateField::Wrapped {
                    candidate: String::new(),
                    sdp_mline_index: Some(0),
                    sdp_mid: Some("0".to_owned()),
                }),
                ..Fields::default()
            },
        };
        // Strings and numbers in a struct always serialize.
        let object = to_raw_value(&fields).unwrap_or_default();
        match form {
            DataForm::Object => object,
            DataForm::Text => to_raw_value(object.get()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Option<(SignalData, DataForm)> {
        SignalData::parse(&RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn an_answer_goes_out_in_the_form_in_which_the_offer_came() {
        let answer = SignalData::Answer {
            sdp: "v=0\r\n".to_owned(),
        };
        let object = r#"{"type":"answer","sdp":"v=0\r\n"}"#;
        assert_eq!(answer.render(DataForm::Object).get(), object);
        assert_eq!(
            answer.render(DataForm::Text).get(),
            serde_json::to_string(object).unwrap()
        );
    }

    #[test]
    fn an_offer_is_understood_as_object_and_as_string() {
        let offer = SignalData::Offer {
            sdp: "v=0".to_owned(),
        };
        let object = r#"{"sdp":"v=0","extra":[1],"type":"offer"}"#;
        assert_eq!(parse(object), Some((offer.clone(), DataForm::Object)));
        let text = serde_json::to_string(object).unwrap();
        assert_eq!(parse(&text), Some((offer, DataForm::Text)));
    }

    #[test]
    fn a_candidate_is_understood_wrapped_and_flat_and_goes_out_wrapped() {
        let candidate = SignalData::Candidate {
            candidate: "candidate:1 1 udp 1 127.0.0.1 9 typ host".to_owned(),
            sdp_mid: Some("0".to_owned()),
            sdp_mline_index: Some(0),
        };
        let seen = r#"{"candidate":{"candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host","sdpMLineIndex":0,"sdpMid":"0"}}"#;
        let flat = r#"{"type":"candidate","candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host","sdpMLineIndex":0,"sdpMid":"0"}"#;
        assert_eq!(parse(seen), Some((candidate.clone(), DataForm::Object)));
        assert_eq!(parse(flat), Some((candidate.clone(), DataForm::Object)));
        assert_eq!(candidate.render(DataForm::Object).get(), seen);
    }

    #[test]
    fn the_end_of_candidates_has_three_spellings() {
        let end = Some((SignalData::EndOfCandidates, DataForm::Object));
        assert_eq!(parse(r#"{"candidate":null}"#), end);
        assert_eq!(parse(r#"{"candidate":""}"#), end);
        assert_eq!(parse(r#"{"candidate":{"candidate":""}}"#), end);
        let rendered = SignalData::EndOfCandidates.render(DataForm::Text);
        assert_eq!(
            SignalData::parse(&rendered),
            Some((SignalData::EndOfCandidates, DataForm::Text))
        );
    }

    #[test]
    fn anything_else_is_nothing_to_us() {
        for json in [
            "7",
            "null",
            "[]",
            "{}",
            r#""""#,
            r#""hello""#,
            r#"{"type":"offer"}"#,
            r#"{"sdp":"v=0"}"#,
            r#"{"type":"pranswer","sdp":"v=0"}"#,
            r#"{"candidate":7}"#,
        ] {
            assert_eq!(parse(json), None, "{json}");
        }
    }
}

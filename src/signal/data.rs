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
        /// From a box that knows the operator's secret.
        sibling: Option<SiblingProof>,
    },
    /// The answer to an offer.
    Answer {
        /// SDP.
        sdp: String,
        /// From a box that knows the operator's secret.
        sibling: Option<SiblingProof>,
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

/// How a box proves to another one that it knows the operator's shared secret, beside `sdp`. Pages
/// have none, and servers never look at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiblingProof {
    /// Who proves it.
    pub id: String,
    /// The proof.
    pub mac: String,
}

/// Bytes of either part of a [`SiblingProof`] at most: a SHA-512 in hexadecimal.
const MAX_PROOF: usize = 128;

/// All that can stand in `data`.
#[derive(Default, Deserialize, Serialize)]
struct Fields {
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sdp: Option<String>,
    #[serde(default, deserialize_with = "proof_or_none")]
    #[serde(skip_serializing_if = "Option::is_none")]
    sibling: Option<SiblingProof>,
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

/// A proof that is none never makes an offer fail: its sender is served like anybody else.
fn proof_or_none<'de, D>(value: D) -> Result<Option<SiblingProof>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let value = serde_json::Value::deserialize(value)?;
    let proof: Option<SiblingProof> = serde_json::from_value(value).ok();
    Ok(proof.filter(|proof| proof.id.len() <= MAX_PROOF && proof.mac.len() <= MAX_PROOF))
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
                let sibling = fields.sibling;
                return match fields.kind.as_deref() {
                    Some("offer") => Some(Self::Offer { sdp, sibling }),
                    Some("answer") => Some(Self::Answer { sdp, sibling }),
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
        let session = |kind: &str, sdp: &String, sibling: &Option<SiblingProof>| Fields {
            kind: Some(kind.to_owned()),
            sdp: Some(sdp.clone()),
            sibling: sibling.clone(),
            ..Fields::default()
        };
        let fields = match self {
            Self::Offer { sdp, sibling } => session("offer", sdp, sibling),
            Self::Answer { sdp, sibling } => session("answer", sdp, sibling),
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
            sibling: None,
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
            sibling: None,
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
    fn a_siblings_proof_travels_beside_the_sdp_and_a_bad_one_costs_nothing_but_itself() {
        let proof = SiblingProof {
            id: "box-2".to_owned(),
            mac: "ab".repeat(64),
        };
        let offer = SignalData::Offer {
            sdp: "v=0".to_owned(),
            sibling: Some(proof),
        };
        for form in [DataForm::Object, DataForm::Text] {
            assert_eq!(
                SignalData::parse(&offer.render(form)),
                Some((offer.clone(), form))
            );
        }
        let long = "x".repeat(MAX_PROOF + 1);
        for bad in [
            "7",
            "null",
            "[]",
            r#"{"id":"box-2"}"#,
            r#"{"id":2,"mac":"ab"}"#,
            &format!(r#"{{"id":"box-2","mac":"{long}"}}"#),
        ] {
            let parsed = parse(&format!(
                r#"{{"type":"offer","sibling":{bad},"sdp":"v=0"}}"#
            ));
            assert!(
                matches!(
                    parsed,
                    Some((SignalData::Offer { sibling: None, .. }, DataForm::Object))
                ),
                "{bad}: {parsed:?}"
            );
        }
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

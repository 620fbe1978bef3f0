//! Sense data: why a command was refused or failed, or what an initiator has to know (SPC-4 4.5).
//!
//! Both formats say the same. Which one is used is the initiator's choice (D_SENSE of the control
//! mode page); the fixed one has 32 bits for INFORMATION, and leaves out what does not fit.

/// Bytes of fixed format sense data as it is sent (SPC-4 4.5.3).
const FIXED_BYTES: usize = 18;
/// Response codes: current information.
const FIXED_CURRENT: u8 = 0x70;
const DESCRIPTOR_CURRENT: u8 = 0x72;
/// INFORMATION, or what stands in front of it in a descriptor, is valid.
const VALID: u8 = 0x80;

/// Sense keys, SPC-4 table 43.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to tell.
    NoSense = 0x0,
    /// Done, after trouble.
    RecoveredError = 0x1,
    /// Cannot be accessed now.
    NotReady = 0x2,
    /// The medium is damaged.
    MediumError = 0x3,
    /// The device failed.
    HardwareError = 0x4,
    /// The command is wrong.
    IllegalRequest = 0x5,
    /// Something happened that the initiator must know first.
    UnitAttention = 0x6,
    /// It may not be written, or not now.
    DataProtect = 0x7,
    /// Ended by the device; it may be tried again.
    AbortedCommand = 0xb,
    /// The data does not equal what is on the medium.
    Miscompare = 0xe,
}

/// An additional sense code and its qualifier, SPC-4 annex F.2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Additional {
    /// ADDITIONAL SENSE CODE.
    pub code: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub qualifier: u8,
}

/// Names the codes in use, as constants and in words.
macro_rules! additional {
    ($(
        $(#[doc = $when:literal])+
        $name:ident = $code:literal / $qualifier:literal, $text:literal;
    )*) => {
        impl Additional {
            $(
                $(#[doc = $when])+
                pub const $name: Self = Self { code: $code, qualifier: $qualifier };
            )*

            /// Every code that is in use, with the text of the standard.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];

            /// When each of them is used, for people.
            #[cfg(test)]
            pub(super) const WHEN: &'static [&'static str] = &[$(concat!($($when),+)),*];
        }
    };
}

additional! {
    /// NO SENSE: nothing to tell (REQUEST SENSE).
    NONE = 0x00 / 0x00, "NO ADDITIONAL SENSE INFORMATION";
    /// NOT READY: the disk cannot be used now, and will be there again: the service stops, or a key
    /// is missing.
    NOT_READY = 0x04 / 0x00, "LOGICAL UNIT NOT READY, CAUSE NOT REPORTABLE";
    /// ABORTED COMMAND: more unsolicited data than was agreed (RFC 7143 11.4.7.2).
    UNEXPECTED_UNSOLICITED_DATA = 0x0c / 0x0c, "WRITE ERROR - UNEXPECTED UNSOLICITED DATA";
    /// ABORTED COMMAND: less unsolicited data than was announced (RFC 7143 11.4.7.2).
    NOT_ENOUGH_UNSOLICITED_DATA = 0x0c / 0x0d, "WRITE ERROR - NOT ENOUGH UNSOLICITED DATA";
    /// ILLEGAL REQUEST: data-out ends within a block, or WRITE SAME, COMPARE AND WRITE or VERIFY of
    /// one block come with more or less than they mean.
    INVALID_INFORMATION_UNIT = 0x0e / 0x03, "INVALID FIELD IN COMMAND INFORMATION UNIT";
    /// MEDIUM ERROR: stored blocks are damaged, lost or sealed; INFORMATION is the first of them.
    UNRECOVERED_READ_ERROR = 0x11 / 0x00, "UNRECOVERED READ ERROR";
    /// ABORTED COMMAND: data was asked for again, which is not offered (RFC 7143 11.4.7.2).
    FAILED_RETRANSMISSION = 0x11 / 0x13, "READ ERROR - FAILED RETRANSMISSION REQUEST";
    /// ILLEGAL REQUEST: a parameter list ends too early.
    PARAMETER_LIST_LENGTH = 0x1a / 0x00, "PARAMETER LIST LENGTH ERROR";
    /// MISCOMPARE: what was compared differs; INFORMATION is the offset of the first byte that
    /// does.
    MISCOMPARE = 0x1d / 0x00, "MISCOMPARE DURING VERIFY OPERATION";
    /// ILLEGAL REQUEST: there is no such command.
    INVALID_OPERATION_CODE = 0x20 / 0x00, "INVALID COMMAND OPERATION CODE";
    /// ILLEGAL REQUEST: blocks behind the end.
    LBA_OUT_OF_RANGE = 0x21 / 0x00, "LOGICAL BLOCK ADDRESS OUT OF RANGE";
    /// ILLEGAL REQUEST: a field of the CDB is wrong, or a bit is set that means nothing; with a
    /// pointer to it.
    INVALID_FIELD_IN_CDB = 0x24 / 0x00, "INVALID FIELD IN CDB";
    /// ILLEGAL REQUEST: there is no such unit, or no more: its export was removed, or its disk is
    /// gone for good, as a branch that was discarded.
    NOT_SUPPORTED_LUN = 0x25 / 0x00, "LOGICAL UNIT NOT SUPPORTED";
    /// ILLEGAL REQUEST: a field of a parameter list is wrong; with a pointer to it.
    INVALID_FIELD_IN_PARAMETERS = 0x26 / 0x00, "INVALID FIELD IN PARAMETER LIST";
    /// DATA PROTECT: the disk, the export or SWP forbids to write.
    WRITE_PROTECTED = 0x27 / 0x00, "WRITE PROTECTED";
    /// DATA PROTECT: space is gone; what was there is unharmed, and a later write may succeed.
    SPACE_ALLOCATION_FAILED = 0x27 / 0x07, "SPACE ALLOCATION FAILED WRITE PROTECT";
    /// UNIT ATTENTION: another nexus loaded the medium.
    MEDIUM_CHANGED = 0x28 / 0x00, "NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED";
    /// UNIT ATTENTION: the nexus, or the unit, is new.
    POWER_ON = 0x29 / 0x00, "POWER ON, RESET, OR BUS DEVICE RESET OCCURRED";
    /// UNIT ATTENTION: the target was reset; for every nexus, that of the reset too.
    TARGET_RESET = 0x29 / 0x02, "SCSI BUS RESET OCCURRED";
    /// UNIT ATTENTION: the unit was reset; for every nexus, that of the reset too.
    UNIT_RESET = 0x29 / 0x03, "BUS DEVICE RESET FUNCTION OCCURRED";
    /// UNIT ATTENTION: the session was reinstated before the old one had ended.
    NEXUS_LOSS = 0x29 / 0x07, "I_T NEXUS LOSS OCCURRED";
    /// UNIT ATTENTION: another nexus changed mode parameters.
    MODE_PARAMETERS_CHANGED = 0x2a / 0x01, "MODE PARAMETERS CHANGED";
    /// UNIT ATTENTION: the disk grew.
    CAPACITY_CHANGED = 0x2a / 0x09, "CAPACITY DATA HAS CHANGED";
    /// UNIT ATTENTION: another nexus cleared commands of this one.
    COMMANDS_CLEARED = 0x2f / 0x00, "COMMANDS CLEARED BY ANOTHER INITIATOR";
    /// UNIT ATTENTION: little space is left.
    SOFT_THRESHOLD = 0x38 / 0x07, "THIN PROVISIONING SOFT THRESHOLD REACHED";
    /// ILLEGAL REQUEST: MODE SENSE for saved values, which do not exist.
    SAVING_NOT_SUPPORTED = 0x39 / 0x00, "SAVING PARAMETERS NOT SUPPORTED";
    /// NOT READY: the medium was ejected.
    NO_MEDIUM = 0x3a / 0x00, "MEDIUM NOT PRESENT";
    /// UNIT ATTENTION: units came or went; REPORT LUNS tells it, too.
    REPORTED_LUNS_CHANGED = 0x3f / 0x0e, "REPORTED LUNS DATA HAS CHANGED";
    /// HARDWARE ERROR: the disk below failed.
    INTERNAL_FAILURE = 0x44 / 0x00, "INTERNAL TARGET FAILURE";
    /// ABORTED COMMAND: a data digest was wrong (RFC 7143 11.4.7.2).
    PROTOCOL_SERVICE_CRC = 0x47 / 0x05, "PROTOCOL SERVICE CRC ERROR";
    /// ILLEGAL REQUEST: somebody prevents the removal of the medium.
    REMOVAL_PREVENTED = 0x53 / 0x02, "MEDIUM REMOVAL PREVENTED";
}

/// Where a wrong field stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldPlace {
    /// In the CDB.
    Command,
    /// In the parameter list.
    Parameters,
}

/// The first byte, and bit if it is known, of a wrong field (SPC-4 4.5.2.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldPointer {
    /// Of what.
    pub place: FieldPlace,
    /// Byte from its start.
    pub byte: u16,
    /// The field's most significant bit in that byte.
    pub bit: Option<u8>,
}

/// Which of the two formats is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SenseFormat {
    /// SPC-4 4.5.3.
    #[default]
    Fixed,
    /// SPC-4 4.5.2.
    Descriptor,
}

/// Why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sense {
    /// What kind of trouble.
    pub key: SenseKey,
    /// Which.
    pub additional: Additional,
    /// INFORMATION: an LBA, or an offset, as the command says.
    pub information: Option<u64>,
    /// The wrong field.
    pub field: Option<FieldPointer>,
}

impl Sense {
    /// Nothing to tell.
    pub const NONE: Self = Self::new(SenseKey::NoSense, Additional::NONE);

    /// Without INFORMATION and field.
    pub const fn new(key: SenseKey, additional: Additional) -> Self {
        Self { key, additional, information: None, field: None }
    }

    /// ILLEGAL REQUEST for a reason without a field.
    pub const fn illegal(additional: Additional) -> Self {
        Self::new(SenseKey::IllegalRequest, additional)
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN CDB: the field whose most significant bit is `bit` of byte
    /// `byte`.
    pub const fn invalid_field(byte: u16, bit: u8) -> Self {
        let field = FieldPointer { place: FieldPlace::Command, byte, bit: Some(bit) };
        let sense = Self::illegal(Additional::INVALID_FIELD_IN_CDB);
        Self { field: Some(field), ..sense }
    }

    /// ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST: the field that begins in byte `byte`.
    pub const fn invalid_parameter(byte: u16) -> Self {
        let field = FieldPointer { place: FieldPlace::Parameters, byte, bit: None };
        let sense = Self::illegal(Additional::INVALID_FIELD_IN_PARAMETERS);
        Self { field: Some(field), ..sense }
    }

    /// The same with INFORMATION.
    #[must_use]
    pub const fn with_information(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// The bytes of it.
    pub fn encode(&self, format: SenseFormat) -> Vec<u8> {
        match format {
            SenseFormat::Fixed => self.encode_fixed(),
            SenseFormat::Descriptor => self.encode_descriptors(),
        }
    }

    fn encode_fixed(&self) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES];
        bytes[0] = FIXED_CURRENT;
        bytes[2] = self.key as u8;
        if let Some(information) = self.information.and_then(|all| u32::try_from(all).ok()) {
            bytes[0] |= VALID;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[7] = u8::try_from(FIXED_BYTES - 8).expect("small");
        bytes[12] = self.additional.code;
        bytes[13] = self.additional.qualifier;
        if let Some(field) = self.field {
            bytes[15..18].copy_from_slice(&field.encode());
        }
        bytes
    }

    fn encode_descriptors(&self) -> Vec<u8> {
        let Additional { code, qualifier } = self.additional;
        let mut bytes = vec![DESCRIPTOR_CURRENT, self.key as u8, code, qualifier, 0, 0, 0, 0];
        if let Some(information) = self.information {
            // SPC-4 4.5.2.2: type 0, ten more bytes.
            bytes.extend([0x00, 0x0a, VALID, 0]);
            bytes.extend(information.to_be_bytes());
        }
        if let Some(field) = self.field {
            // SPC-4 4.5.2.4: type 2, six more bytes.
            bytes.extend([0x02, 0x06, 0, 0]);
            bytes.extend(field.encode());
            bytes.push(0);
        }
        bytes[7] = u8::try_from(bytes.len() - 8).expect("two short descriptors");
        bytes
    }
}

impl FieldPointer {
    /// SENSE KEY SPECIFIC bytes.
    fn encode(self) -> [u8; 3] {
        let place = if self.place == FieldPlace::Command { 0x40 } else { 0 };
        let bit = self.bit.map_or(0, |bit| 0x08 | (bit & 7));
        let [high, low] = self.byte.to_be_bytes();
        [0x80 | place | bit, high, low]
    }
}

impl std::fmt::Display for Sense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Additional { code, qualifier } = self.additional;
        let named = Additional::ALL.iter().find(|(known, _)| *known == self.additional);
        let text = named.map_or("", |(_, text)| text);
        write!(f, "{:?} {code:02x}h/{qualifier:02x}h {text}", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_format_is_eighteen_bytes() {
        let sense = Sense::invalid_field(2, 7).with_information(0x1234_5678);
        assert_eq!(
            sense.encode(SenseFormat::Fixed),
            [0xf0, 0, 5, 0x12, 0x34, 0x56, 0x78, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcf, 0, 2]
        );
        let far = Sense::new(SenseKey::MediumError, Additional::UNRECOVERED_READ_ERROR)
            .with_information(1 << 32);
        assert_eq!(far.encode(SenseFormat::Fixed)[..8], [0x70, 0, 3, 0, 0, 0, 0, 10]);
    }

    #[test]
    fn descriptors_have_room_for_long_addresses() {
        let sense = Sense::invalid_parameter(0x102).with_information(1 << 32);
        assert_eq!(
            sense.encode(SenseFormat::Descriptor),
            [
                0x72, 5, 0x26, 0, 0, 0, 0, 20, 0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 6, 0, 0,
                0x80, 1, 2, 0
            ]
        );
        assert_eq!(Sense::NONE.encode(SenseFormat::Descriptor), [0x72, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn no_code_is_listed_twice() {
        for (place, (code, _)) in Additional::ALL.iter().enumerate() {
            assert!(!Additional::ALL[..place].iter().any(|(earlier, _)| earlier == code));
        }
    }
}

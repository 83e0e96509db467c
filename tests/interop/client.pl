# Perl Net::SMPP against the gateway: binds, submits, reads the response and the receipt, answers it.
# usage: perl client.pl PORT ACCOUNT
use strict;
use warnings;
use Net::SMPP;

my ($port, $account) = @ARGV;
# It warns of what it does not understand, such as an optional parameter without a name: that is a failure here.
local $SIG{__WARN__} = sub { die "Net::SMPP warns: @_" };

sub bind_with {
    my ($password) = @_;
    my ($smpp, $resp) = Net::SMPP->new_transceiver('127.0.0.1',
        port => $port, smpp_version => 0x34, interface_version => 0x34,
        system_id => $account, password => $password)
        or die "no connection: $!";
    return ($smpp, $resp);
}

my (undef, $refused) = bind_with('wrong');
$refused->status == 0x0d or die 'a wrong password: ' . $refused->explain_status;

my ($smpp, $bound) = bind_with('secret1');
$bound->status == 0 or die 'bind: ' . $bound->explain_status;
$bound->{system_id} eq 'SMSCONNECT' or die "system_id: $bound->{system_id}";
unpack('C', $bound->{sc_interface_version}) == 0x34 or die 'no sc_interface_version 0x34';

# One message after the other: while it waits for a response it drops what else comes, and that could be a receipt.
my ($messages, $receipts) = (0, 0);
for my $number ('254712000031', '254712000032') {
    my $resp = $smpp->submit_sm(
        source_addr_ton => 5, source_addr => 'ACME',
        dest_addr_ton => 1, dest_addr_npi => 1, destination_addr => $number,
        registered_delivery => 1, short_message => 'from Perl');
    $resp->status == 0 or die 'submit_sm: ' . $resp->explain_status;
    my $id = $resp->message_id;
    length $id or die 'no message_id';
    $messages++;

    my $pdu = $smpp->read_pdu() or die 'the connection is gone';
    $pdu->explain_cmd eq 'deliver_sm' or die 'not a deliver_sm: ' . $pdu->explain_cmd;
    ($pdu->{esm_class} & 0x3c) == 0x04 or die "esm_class $pdu->{esm_class}";
    $pdu->{source_addr} eq $number or die "source_addr $pdu->{source_addr}";
    $pdu->{short_message} =~ /^id:\Q$id\E sub:001 dlvrd:001 submit date:\d{10} done date:\d{10} stat:DELIVRD err:000 text:/
        or die "receipt for $id: $pdu->{short_message}";
    unpack('Z*', $pdu->{receipted_message_id}) eq $id or die "receipted_message_id $pdu->{receipted_message_id}";
    unpack('C', $pdu->{message_state}) == 2 or die 'message_state';
    $smpp->deliver_sm_resp(seq => $pdu->seq, message_id => '');
    $receipts++;
}
# The session still works after all that, and ends in order.
$smpp->enquire_link()->status == 0 or die 'enquire_link';
my $unbound = $smpp->unbind();
$unbound->explain_cmd eq 'unbind_resp' && $unbound->status == 0 or die 'unbind';
print "  $messages messages, $receipts receipts\n";

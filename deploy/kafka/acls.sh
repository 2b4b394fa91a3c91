#!/bin/sh
# Grant every principal exactly the rights that it needs, with Kafka's own kafka-acls.
#
#   deploy/kafka/acls.sh kafka:9093 admin.properties
#   deploy/kafka/acls.sh kafka:9093 admin.properties end-ceremony
#
# admin.properties is of a super user. Run it before `wasm-executor topics apply` and
# `init`, and the second form after `init`: then nobody but executors can write results
# or audit, and nobody at all can alter or delete the audit topic. Again changes nothing.
# For other topic names print the commands: `wasm-executor topics acls`.
set -eu
if [ $# -lt 2 ]; then
  echo "usage: $0 BOOTSTRAP ADMIN.properties [end-ceremony]" >&2
  exit 2
fi
bootstrap=$1 config=$2 act=${3:-grant}

kafka_acls=${KAFKA_ACLS:-kafka-acls} # kafka-acls.sh in Apache's own tarball and image
group=${GROUP:-wasm-executor}
executor=${EXECUTOR:-wasm-executor}
notary=${NOTARY:-wasm-notary}
operator=${OPERATOR:-wasm-operator}
ceremony=${CEREMONY:-wasm-ceremony}
requester=${REQUESTER:-wasm-requester}
auditor=${AUDITOR:-wasm-auditor}

acl() {
  "$kafka_acls" --bootstrap-server "$bootstrap" --command-config "$config" "$@"
}

allow() { # PRINCIPAL "OPERATION …" RESOURCE …
  principal=$1
  operations=
  for operation in $2; do operations="$operations --operation $operation"; done
  shift 2
  # shellcheck disable=SC2086 # operations and the verb are words
  acl $verb --allow-principal "User:$principal" $operations "$@"
}

topics() { # what it prints is split into words: topic names have no spaces
  for name in "$@"; do printf -- '--topic wasm.%s ' "$name"; done
}

rights_of_ceremony() {
  # shellcheck disable=SC2046 # as topics says
  {
    allow "$ceremony" 'Read Write DescribeConfigs' $(topics audit control)
    allow "$ceremony" 'Describe DescribeConfigs' \
      $(topics requests results modules checkpoints)
  }
}

case $act in
grant)
  verb=--add
  rights_of_ceremony
  # shellcheck disable=SC2046 # as topics says
  {
    allow "$executor" 'Read DescribeConfigs' $(topics requests control modules)
    allow "$executor" 'Read Write DescribeConfigs' $(topics results audit)
    allow "$executor" 'Describe DescribeConfigs' $(topics checkpoints)
    allow "$executor" Read --group "$group"
    # A lane's transactional id: whoever may take it, owns the lane.
    allow "$executor" Write --transactional-id wasm-executor.wasm.audit. \
      --resource-pattern-type prefixed

    allow "$notary" 'Read DescribeConfigs' $(topics requests audit modules control)
    allow "$notary" 'Read Write DescribeConfigs' $(topics checkpoints)
    allow "$notary" 'Describe DescribeConfigs' $(topics results)

    allow "$operator" 'Read DescribeConfigs' \
      $(topics requests results audit checkpoints)
    allow "$operator" 'Read Write DescribeConfigs' $(topics control modules)
    # Every topic's settings but the audit's, which are nobody's to change.
    allow "$operator" AlterConfigs \
      $(topics requests results modules control checkpoints)
    allow "$operator" Create --cluster

    allow "$requester" Write $(topics requests)
    allow "$requester" Read $(topics results)

    allow "$auditor" Read \
      $(topics requests results audit modules control checkpoints)
  }
  ;;
end-ceremony)
  verb='--remove --force'
  rights_of_ceremony
  ;;
*)
  echo "$0: $act is neither grant nor end-ceremony" >&2
  exit 2
  ;;
esac

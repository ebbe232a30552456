# The part of a guest that takes requests, for any POSIX shell with base64 and gzip: see guest.rs beside this.
serve() {
    # Lines as they are: no echo, no carriage returns; only a dying kernel may interrupt.
    stty -echo -opost
    dmesg -n 1
    script=
    echo "@testkit-ready"
    while read -r word rest; do
        case $word in
        @run)
            echo "$script" | base64 -d >/tmp/request
            sh /tmp/request </dev/null >/tmp/answer 2>&1
            status=$?
            # Every byte costs an exit of the processor, up to 0.4 ms where all is emulated.
            packing=plain
            if [ "$(wc -c </tmp/answer)" -gt 1000 ]; then
                gzip -f /tmp/answer && mv /tmp/answer.gz /tmp/answer && packing=gzip
            fi
            echo
            echo "@begin $rest $packing"
            base64 /tmp/answer
            echo "@end $rest $status"
            script=
            ;;
        *) script="$script$word" ;;
        esac
    done
}

from isthmus.mqtt.codec cimport Decoder


cdef class Connection:
    cdef public Decoder _decoder
    cdef public int _keep_alive
    cdef public object _pinged_at
    cdef public long long _session_expiry
    cdef public int _topic_alias_maximum
    cdef public int _topic_aliases_out
    cdef public object aliases
    cdef public list out
    cdef public object peer
    cdef public double received_at
    cdef public object role
    cdef public double sent_at
    cdef public object state
    cdef public object version

    cpdef list receive(self, bytes data, double now)

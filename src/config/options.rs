//! The names of all options, and the defaults of those that are used.
//!
//! Plain tables; must not know sections, files or drivers.

/// Cinder's default for an option, or ours for one of ours, as it would stand in a file.
/// An option that is absent here and in the file has no value.
const DEFAULTS: &[(&str, &str)] = &[
    ("state_path", "/var/lib/cinder"),
    ("backup_posix_path", "$state_path/backup"),
    ("backup_file_size", "1999994880"),
    ("backup_sha_block_size_bytes", "32768"),
    ("backup_compression_algorithm", "zlib"),
    ("backup_mount_point_base", "$state_path/backup_mount"),
    ("backup_mount_attempts", "3"),
    ("glusterfs_backup_mount_point", "$state_path/backup_mount"),
    ("backup_swift_object_size", "52428800"),
    ("backup_swift_block_size", "32768"),
    ("backup_swift_container", "volumebackups"),
    ("backup_swift_containers", "configured"),
    ("backup_swift_retry_attempts", "3"),
    ("backup_swift_retry_backoff", "2"),
    ("backup_ceph_conf", "/etc/ceph/ceph.conf"),
    ("backup_ceph_user", "cinder"),
    ("backup_ceph_pool", "backups"),
    ("backup_ceph_chunk_size", "134217728"),
    ("backup_ceph_stripe_unit", "0"),
    ("backup_ceph_stripe_count", "0"),
    ("backup_ceph_image_journals", "false"),
    ("restore_discard_excess_bytes", "true"),
    // Cinder's default, for volumes, is that of librados: 300.
    ("rados_connect_timeout", "30"),
    ("backup_tsm_volume_prefix", "backup"),
    ("backup_tsm_compression", "true"),
    ("backup_tsm_dsmc_path", "dsmc"),
    ("backup_tsm_staging_path", "$state_path/backup_tsm"),
    ("backup_tsm_staging_limit", "0"),
    ("backup_tsm_session_timeout", "120"),
    ("backup_tsm_mount_timeout", "1800"),
    ("backup_tsm_mode", "file"),
    ("backup_tsm_list_images", "true"),
    ("backup_tsm_legacy_commands", "false"),
    ("swift_catalog_info", "object-store:swift:publicURL"),
    ("request_timeout", "60"),
    ("memory", "256MiB"),
    ("list_ttl", "5"),
    ("append_only", "false"),
    ("incremental", "never"),
    ("max_chain", "0"),
    // Cinder's defaults are 10 and 1000, for each project. Here nobody would know of a
    // limit that no file names.
    ("quota_backups", "-1"),
    ("quota_backup_gigabytes", "-1"),
];

/// Options of ours for the whole program: they stand in `[DEFAULT]` only.
pub(super) const GLOBAL: &[&str] = &["memory", "spool_path"];

/// Options of ours for one backend; in `[DEFAULT]` they hold for all.
pub(super) const PER_BACKEND: &[&str] = &[
    "list_ttl",
    "append_only",
    "incremental",
    "max_chain",
    "request_timeout",
];

/// Options of ours for one driver. They stand beside those of Cinder, and are no more
/// inherited than those: half of a login from here and half from there is none.
pub(super) const OF_DRIVER: &[&str] = &[
    "backup_swift_application_credential_id",
    "backup_swift_application_credential_name",
    "backup_swift_application_credential_secret",
    "backup_swift_containers",
    "backup_swift_token_file",
    "backup_tsm_catalog_path",
    "backup_tsm_dsmc_path",
    "backup_tsm_folders",
    "backup_tsm_legacy_commands",
    "backup_tsm_list_images",
    "backup_tsm_mode",
    "backup_tsm_mount_timeout",
    "backup_tsm_option_file",
    "backup_tsm_server_name",
    "backup_tsm_session_timeout",
    "backup_tsm_staging_limit",
    "backup_tsm_staging_path",
    // Of Cinder's volumes.
    "rados_connect_timeout",
];

/// Options that nobody else may read.
pub(super) const SECRET: &[&str] = &[
    "backup_swift_application_credential_secret",
    "backup_swift_key",
    "backup_tsm_password",
];

/// The options of Cinder that may stand in the section of a backend: all that Cinder
/// 29.0.0 has for backups, and those of former releases that files may still hold. Most
/// are for its service and mean nothing here, but a file that works for Cinder must work
/// here as well, and a mistyped name must not pass.
pub(super) const OF_CINDER: &[&str] = &[
    "state_path",
    "storage_availability_zone",
    "quota_backups",
    "quota_backup_gigabytes",
    // The service.
    "backup_api_class",
    "backup_compression_algorithm",
    "backup_create_containers",
    "backup_driver",
    "backup_driver_init_check_interval",
    "backup_driver_stats_polling_interval",
    "backup_driver_status_check_interval",
    "backup_manager",
    "backup_max_operations",
    "backup_metadata_version",
    "backup_name_template",
    "backup_native_threads_pool_size",
    "backup_object_number_per_notification",
    "backup_service",
    "backup_service_inithost_offload",
    "backup_timer_interval",
    "backup_topic",
    "backup_use_same_host",
    "backup_use_temp_snapshot",
    "backup_workers",
    // posix, and what nfs and glusterfs share with it.
    "backup_container",
    "backup_enable_progress_timer",
    "backup_file_size",
    "backup_posix_path",
    "backup_sha_block_size_bytes",
    // nfs
    "backup_mount_attempts",
    "backup_mount_options",
    "backup_mount_point_base",
    "backup_share",
    // glusterfs
    "glusterfs_backup_mount_point",
    "glusterfs_backup_share",
    // swift
    "backup_swift_auth",
    "backup_swift_auth_insecure",
    "backup_swift_auth_url",
    "backup_swift_auth_version",
    "backup_swift_block_size",
    "backup_swift_ca_cert_file",
    "backup_swift_container",
    "backup_swift_create_storage_policy",
    "backup_swift_enable_progress_timer",
    "backup_swift_key",
    "backup_swift_object_size",
    "backup_swift_project",
    "backup_swift_project_domain",
    "backup_swift_region_name",
    "backup_swift_retry_attempts",
    "backup_swift_retry_backoff",
    "backup_swift_service_auth",
    "backup_swift_tenant",
    "backup_swift_url",
    "backup_swift_user",
    "backup_swift_user_domain",
    "keystone_catalog_info",
    "swift_catalog_info",
    // ceph
    "backup_ceph_chunk_size",
    "backup_ceph_conf",
    "backup_ceph_image_journals",
    "backup_ceph_max_snapshots",
    "backup_ceph_pool",
    "backup_ceph_stripe_count",
    "backup_ceph_stripe_unit",
    "backup_ceph_user",
    "restore_discard_excess_bytes",
    // tsm
    "backup_tsm_compression",
    "backup_tsm_password",
    "backup_tsm_volume_prefix",
    // s3
    "backup_s3_block_size",
    "backup_s3_ca_cert_file",
    "backup_s3_enable_progress_timer",
    "backup_s3_endpoint_url",
    "backup_s3_http_proxy",
    "backup_s3_https_proxy",
    "backup_s3_max_pool_connections",
    "backup_s3_md5_validation",
    "backup_s3_object_size",
    "backup_s3_retry_max_attempts",
    "backup_s3_retry_mode",
    "backup_s3_sse_customer_algorithm",
    "backup_s3_sse_customer_key",
    "backup_s3_store_access_key",
    "backup_s3_store_bucket",
    "backup_s3_store_secret_key",
    "backup_s3_timeout",
    "backup_s3_verify_ssl",
    // gcs
    "backup_gcs_block_size",
    "backup_gcs_bucket",
    "backup_gcs_bucket_location",
    "backup_gcs_credential_file",
    "backup_gcs_enable_progress_timer",
    "backup_gcs_num_retries",
    "backup_gcs_object_size",
    "backup_gcs_project_id",
    "backup_gcs_proxy_url",
    "backup_gcs_reader_chunk_size",
    "backup_gcs_retry_error_codes",
    "backup_gcs_storage_class",
    "backup_gcs_user_agent",
    "backup_gcs_writer_chunk_size",
];

/// What an option is worth when no file sets it.
pub(super) fn default_of(option: &str) -> Option<&'static str> {
    DEFAULTS
        .iter()
        .find(|(name, _)| *name == option)
        .map(|(_, value)| *value)
}

/// The name among `known` that a mistyped `name` most likely stands for.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the name may be wrong: more would propose names that have nothing in
    // common but the prefix that nearly all of them share.
    let tolerance = (name.chars().count() / 3).max(2);
    known
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
